"""What kind of thing a noun names, as far as a table of plain words can say.

Shared by the embedded phrases and the vision-language model's: classes of Phantom's figure 11, and
nouns that are no subject whoever proposes them (Phantom-Data, section 3: nothing vague such as
trees and rocks; OpenS2V-5M: no parts of a body, nothing abstract).
"""

from __future__ import annotations

import itertools
import re
from typing import Final

#: Class -> bank. A known character is filed with the creatures: its drawn face is no face that
#: an ArcFace could verify, which is what the bank of persons demands.
BANK_OF_CLASS: Final = {
    "human": "person",
    "animal": "creature",
    "ip_character": "creature",
    "clothes": "thing",
    "product": "thing",
    "landmark": "thing",
    "other": "thing",
}

_HUMAN: Final = """
    person people man woman boy girl child baby toddler teenager lady gentleman guy adult
    player dancer cyclist rider singer musician actor actress athlete runner swimmer skater skier
    surfer driver pilot astronaut soldier officer policeman policewoman firefighter doctor nurse
    chef cook waiter waitress teacher student worker farmer fisherman businessman businesswoman
    bride groom mother father son daughter brother sister grandmother grandfather speaker
    presenter reporter photographer painter climber hiker pedestrian passenger model king queen
    president"""
_ANIMAL: Final = """animal bird cat dog horse sheep cow elephant bear zebra giraffe rabbit creature
    squirrel fox puppy kitten lion tiger leopard wolf deer monkey ape gorilla panda koala kangaroo
    quokka pig goat donkey camel llama mouse rat hamster hedgehog bat fish shark whale dolphin seal
    otter turtle tortoise snake lizard frog crocodile duck goose swan chicken rooster hen eagle owl
    parrot penguin pigeon crow butterfly bee spider insect crab octopus jellyfish snail"""
_CLOTHES: Final = """shirt t-shirt blouse sweater hoodie jacket coat dress skirt suit trousers pants
    jeans shorts sock shoe sneaker boot sandal hat cap helmet scarf glove tie belt uniform robe
    kimono sari gown vest cardigan swimsuit bikini"""
_PRODUCT: Final = """bicycle bike car motorcycle motorbike airplane aeroplane bus train truck van
    boat ship scooter skateboard backpack handbag bag suitcase umbrella frisbee ski snowboard kite
    bottle cup mug glass fork knife spoon bowl plate chair couch sofa table bed lamp tv television
    monitor laptop computer mouse remote keyboard phone smartphone tablet camera microwave oven
    toaster refrigerator fridge book clock watch vase scissors toy doll drone guitar piano violin
    drum trumpet racket bat glove ball can box package jar tube perfume lipstick headphones
    microphone speaker drill hammer toothbrush hairdryer sunglasses glasses ring necklace bracelet
    earring"""
_LANDMARK: Final = """tower bridge castle cathedral church temple mosque pagoda pyramid palace
    statue monument arch skyscraper lighthouse stadium fountain fortress obelisk"""
#: Two words whose last one alone would mislead.
_PAIRS: Final = {
    "teddy bear": "product",
    "stuffed animal": "product",
    "toy car": "product",
    "hot dog": "other",
    "computer mouse": "product",
    "baseball bat": "product",
    "baseball glove": "product",
    "tennis racket": "product",
    "sports ball": "product",
    "hair drier": "product",
    "cell phone": "product",
    "wine glass": "product",
    "fire hydrant": "other",
    "traffic light": "other",
    "stop sign": "other",
    "parking meter": "other",
    "potted plant": "other",
    "fish tank": "product",
}
#: Later classes do not take a word from earlier ones: "mouse" is an animal until two words say
#: otherwise, and a "speaker" a person.
_CLASSES: Final = {
    word: name
    for name, words in reversed(
        (
            *(("human", _HUMAN), ("animal", _ANIMAL), ("clothes", _CLOTHES)),
            *(("product", _PRODUCT), ("landmark", _LANDMARK)),
        )
    )
    for word in words.split()
}

_VAGUE: Final = """
    object thing something item stuff shape figure silhouette element detail part piece
    area place scene view background foreground surface pattern texture colour color tone light
    shadow reflection glow sky cloud sun moon star horizon air wind rain snow fog mist smoke fire
    flame water sea ocean lake river stream wave pond beach sand ground soil dirt mud dust floor
    ceiling wall corner grass lawn field meadow hill mountain valley forest wood tree bush shrub
    plant foliage leaf branch flower rock stone pebble boulder cliff road street path pavement
    sidewalk room interior space crowd group audience public team family people everybody someone
    somebody anyone nature landscape scenery environment atmosphere mood day night time motion
    movement sound music text word letter logo caption subtitle watermark"""
_BODY_PARTS: Final = """
    body head face hair eye eyebrow eyelash ear nose mouth lip tooth tongue cheek chin jaw beard
    moustache mustache forehead neck throat shoulder arm elbow wrist hand finger thumb nail chest
    breast back waist hip belly stomach leg thigh knee calf ankle foot toe heel skin tail paw claw
    hoof wing beak feather fur snout muzzle mane horn antler fin trunk"""
#: No subject that could be found again elsewhere.
VAGUE: Final = frozenset(_VAGUE.split())
BODY_PARTS: Final = frozenset(_BODY_PARTS.split())
#: Words that begin a phrase of several; "two-tone" and "50-year-old" do not.
_SEVERAL: Final = re.compile(
    r"^(?:(?:the|a|an|his|her|their)\s+)?(?:[2-9]|\d{2,}|two|three|four|five|six|seven|eight|nine|ten"
    r"|dozens?|hundreds?|thousands?|both|several|many|some|few|multiple|various|numerous"
    r"|couple|group|crowd|herd|flock|row)(?![\w-])",
    re.IGNORECASE,
)


def category_of(noun: str, phrase: str = "") -> str:
    """Class of a noun, one of ``roles.CLASSES``.

    No table of words knows the characters of films and brands, so ``ip_character`` never comes
    out of here; what is in no list is ``other``.

    Args:
        noun: head noun as a lemma.
        phrase: the words it stands in, for nouns of two words.
    """
    pair = _pair(noun, phrase)
    return _PAIRS[pair] if pair else _CLASSES.get(noun.lower(), "other")


def refusal(noun: str, phrase: str, singular: bool) -> str | None:
    """Why a phrase can be no subject, or ``None``.

    Args:
        noun: its head noun.
        phrase: all of it.
        singular: what the parser or the model takes it for.
    """
    if not singular or _SEVERAL.match(phrase):
        return "plural subject"
    last = noun.lower().split()[-1]
    if last in VAGUE and not _pair(last, phrase):
        return "vague subject"
    return "part of a body" if last in BODY_PARTS else None


def _pair(noun: str, phrase: str) -> str | None:
    words = phrase.lower().split()
    pairs = (" ".join(two) for two in itertools.pairwise(words))
    return next((p for p in pairs if p in _PAIRS and p.endswith(noun.lower())), None)
