"""Pools are sized and plans refused before Ray starts: a plan that hangs costs a night."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2v.datapipe.engine.pools import (
    GIB,
    RESERVED_CPUS,
    AdmissionError,
    Need,
    Node,
    nodes_of_cluster,
    place,
    share_actors,
)

CPU, SERVED = Need(), Need(cpus=0.5, served=True)
GPU = Need(cpus=1, gpus=0.5)
FIGURE_3 = [("frames", CPU), ("quality", CPU), ("caption", SERVED), ("phrases", SERVED),
            ("detect", GPU), ("segment", GPU), ("embed", CPU)]  # fmt: skip


def test_cpu_stages_share_an_actor_and_every_gpu_stage_has_its_own() -> None:
    groups = [names for names, _ in share_actors(FIGURE_3)]
    assert groups == [
        ("frames", "quality"), ("caption", "phrases"), ("detect",), ("segment",), ("embed",)
    ]  # fmt: skip


def test_one_core_runs_everything_in_phases() -> None:
    stages = [(n, Need(served=need.served)) for n, need in FIGURE_3]
    phases = place(stages, [Node(1)], 10).phases
    assert [p.stages for phase in phases for p in phase] == [
        ("frames", "quality"), ("caption", "phrases"), ("detect", "segment", "embed")
    ]  # fmt: skip
    assert all(len(phase) == 1 for phase in phases)


def test_a_cluster_that_holds_all_pools_streams() -> None:
    placement = place(FIGURE_3, [Node(16, 1), Node(16, 1)], 1000)
    assert len(placement.phases) == 1
    pools = {p.stages: p.actors for p in placement.phases[0]}
    assert pools["detect",] == 4, "half a GPU each, on two GPUs"
    assert min(pools.values()) >= 1


def test_an_actor_that_fits_no_machine_is_refused_with_the_numbers() -> None:
    with pytest.raises(AdmissionError, match=r"stage detect: .*2 GPU.*2 machines.*1 GPUs"):
        place([("detect", Need(gpus=2))], [Node(8, 1), Node(8, 1)], 5)
    with pytest.raises(AdmissionError, match=r"memory_gb"):
        place([("detect", Need(memory_gb=64))], [Node(8, 0, 32)], 5)
    with pytest.raises(AdmissionError, match=r"0\.5 CPUs"):
        place([("a", CPU)], [Node(0.5)], 5)
    with pytest.raises(AdmissionError, match=r"engine\.actors = 8 .* 2 CPUs"):
        place([("a", CPU)], [Node(2)], 10, wanted=8)


def test_streaming_that_was_insisted_on_and_does_not_fit_says_what_is_short() -> None:
    with pytest.raises(AdmissionError, match=r"ask for 5\.25 CPUs .* has 2.*phases"):
        place([(f"s{n}", Need(gpus=0.1)) for n in range(5)], [Node(2, 1)], 5, mode="stream")


def test_fractions_of_a_gpu_come_from_one_gpu() -> None:
    stages = [("a", Need(cpus=0.1, gpus=0.6)), ("b", Need(cpus=0.1, gpus=0.6))]
    assert len(place(stages, [Node(4, 1)], 5).phases) == 2
    assert Node(8, 2).holds(Need(gpus=0.6)) == 2, "0.4 and 0.4 of two GPUs make no actor"


def test_a_role_that_may_have_many_actors_never_gets_more_than_the_machine_holds() -> None:
    many = [("a", Need(actors=100))]
    assert place(many, [Node(2)], 500).phases[0][0].actors == 2
    gpu = [("a", Need(gpus=1, actors=8))]
    assert place(gpu, [Node(16, 1)], 500, wanted=4).phases[0][0].actors == 1
    assert place([("a", Need(actors=1))], [Node(16)], 500, wanted=4).phases[0][0].actors == 1


def test_models_that_share_an_actor_are_booked_with_the_memory_of_all() -> None:
    stages = [("detect", Need(memory_gb=8)), ("segment", Need(memory_gb=4)), ("embed", Need())]
    assert share_actors(stages)[0][1].memory_gb == 12
    with pytest.raises(AdmissionError, match=r"12 GiB.* 10 GiB"):
        place(stages, [Node(8, 0, 10)], 5)


def test_what_the_runs_own_servers_hold_is_not_given_to_actors() -> None:
    servers = [Need(cpus=1, gpus=1)] * 2
    assert (
        place([("a", CPU)], [Node(4, 1), Node(4, 1)], 99, reserved=servers).phases[0][0].actors == 6
    )
    with pytest.raises(AdmissionError, match=r"stage a: .*1 GPU.* beside the run's own servers"):
        place([("a", Need(gpus=1))], [Node(4, 1), Node(4, 1)], 99, reserved=servers)
    with pytest.raises(AdmissionError, match=r"\[serve\]: 3 servers ask for .*1 GPU.* holds 2 of"):
        place([("a", CPU)], [Node(4, 1), Node(4, 1)], 99, reserved=[Need(gpus=1)] * 3)


def test_a_head_without_cpus_and_a_machine_without_memory_to_book_get_no_actor() -> None:
    described = [
        {"Alive": True, "Resources": {"memory": 8.0 * GIB, "object_store_memory": 1e9}},
        {"Alive": True, "Resources": {"CPU": 4.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0, "memory": 1e12}},
    ]
    nodes = nodes_of_cluster(described)
    assert [(n.cpus, n.memory_gb) for n in nodes] == [(0, 8), (4, 0)]
    assert place([("a", CPU)], nodes, 99).phases[0][0].actors == 4
    with pytest.raises(AdmissionError, match="memory_gb"):
        place([("a", Need(memory_gb=1))], nodes, 99)
    with pytest.raises(AdmissionError, match=r"\(1 machine\) offers 0 CPUs"):
        place([("a", CPU)], nodes[:1], 99)


needs = st.builds(
    Need,
    cpus=st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    gpus=st.sampled_from([0.0, 0.0, 0.25, 0.5, 1.0]),
    served=st.booleans(),
)
nodes = st.lists(
    st.builds(Node, st.integers(1, 64).map(float), st.integers(0, 8).map(float)),
    min_size=1, max_size=4,
)  # fmt: skip


@given(st.lists(needs, min_size=1, max_size=8), nodes, st.integers(1, 500))
def test_an_admitted_plan_always_leaves_room_for_the_tasks_that_feed_it(
    wanted: list[Need], machines: list[Node], units: int
) -> None:
    stages = [(f"s{n}", need) for n, need in enumerate(wanted)]
    try:
        placement = place(stages, machines, units)
    except AdmissionError:
        return
    cpus = sum(node.cpus for node in machines)
    for phase in placement.phases:
        assert sum(p.need.cpus for p in phase) <= cpus - RESERVED_CPUS + 1e-6
        assert sum(p.need.gpus for p in phase) <= sum(n.gpus for n in machines) + 1e-6
        assert all(1 <= p.actors <= units for p in phase)
        if len(phase) == 1:
            assert phase[0].actors * phase[0].need.cpus <= cpus - RESERVED_CPUS + 0.01
    assert [s for phase in placement.phases for p in phase for s in p.stages] == [
        name for name, _ in stages
    ]
