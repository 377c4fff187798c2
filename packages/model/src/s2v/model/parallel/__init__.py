"""One network on many processes; the network's own files know nothing of it.

``world``       which process this is, and how all of them stop together
``seam``        what a block's forward is wrapped in, and in which order
``shard``       FSDP2 and HSDP, block by block
``ulysses``     every sample's tokens shared out among processes
``recompute``   activations made again instead of kept
``compiled``    blocks as compiled graphs
``meta``        a network that starts without memory, filled tensor by tensor
``gradients``   norm, clipping and the verdict on a step
``kernels``     which kernels attention may use
``build``       all of these in their order
"""
