"""Simple facts, and multiple choice between kinds of things."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task, any_word

_CAPITALS = """
France:Paris Japan:Tokyo Italy:Rome Spain:Madrid Germany:Berlin Egypt:Cairo Russia:Moscow
Greece:Athens Portugal:Lisbon Austria:Vienna Poland:Warsaw Ireland:Dublin Norway:Oslo
Sweden:Stockholm Finland:Helsinki Denmark:Copenhagen Belgium:Brussels Hungary:Budapest Cuba:Havana
Canada:Ottawa Australia:Canberra Turkey:Ankara Kenya:Nairobi Peru:Lima Chile:Santiago
Argentina:Buenos_Aires Colombia:Bogota Venezuela:Caracas Ecuador:Quito Thailand:Bangkok
Vietnam:Hanoi Indonesia:Jakarta Philippines:Manila Malaysia:Kuala_Lumpur Nepal:Kathmandu
Mongolia:Ulaanbaatar Iran:Tehran Iraq:Baghdad Jordan:Amman Lebanon:Beirut Syria:Damascus
Qatar:Doha Oman:Muscat Yemen:Sanaa Afghanistan:Kabul Pakistan:Islamabad Bangladesh:Dhaka
Bhutan:Thimphu Cambodia:Phnom_Penh Laos:Vientiane Uzbekistan:Tashkent Kazakhstan:Astana
Georgia:Tbilisi Armenia:Yerevan Azerbaijan:Baku Ukraine:Kyiv Belarus:Minsk Latvia:Riga
Lithuania:Vilnius Estonia:Tallinn Iceland:Reykjavik Slovakia:Bratislava Slovenia:Ljubljana
Croatia:Zagreb Serbia:Belgrade Albania:Tirana Bulgaria:Sofia Romania:Bucharest Malta:Valletta
Cyprus:Nicosia Morocco:Rabat Algeria:Algiers Tunisia:Tunis Libya:Tripoli Sudan:Khartoum
Ethiopia:Addis_Ababa Somalia:Mogadishu Uganda:Kampala Rwanda:Kigali Zambia:Lusaka
Zimbabwe:Harare Angola:Luanda Namibia:Windhoek Botswana:Gaborone Ghana:Accra Senegal:Dakar
Mali:Bamako Niger:Niamey Nigeria:Abuja Madagascar:Antananarivo Jamaica:Kingston Paraguay:Asuncion
Uruguay:Montevideo Guatemala:Guatemala_City Honduras:Tegucigalpa Fiji:Suva
"""
_CONTINENTS = """
Brazil:South_America India:Asia China:Asia Mexico:North_America Morocco:Africa Norway:Europe
Peru:South_America Kenya:Africa Japan:Asia Italy:Europe Ghana:Africa Nepal:Asia Chile:South_America
Canada:North_America Portugal:Europe Vietnam:Asia Uganda:Africa Bolivia:South_America Greece:Europe
Thailand:Asia Zambia:Africa Poland:Europe Guyana:South_America Laos:Asia
"""
_OTHERS = (
    ("Which planet is known as the Red Planet?", "Mars"),
    ("Which planet is closest to the Sun?", "Mercury"),
    ("Which is the largest planet of the solar system?", "Jupiter"),
    ("Which planet is known for its rings?", "Saturn"),
    ("Which gas do plants take in from the air?", ["carbon dioxide", "CO2"]),
    ("Which gas do people need to breathe?", "oxygen"),
    ("What is frozen water called?", "ice"),
    ("Which metal is liquid at room temperature?", "mercury"),
    ("What is the chemical symbol of gold?", "Au"),
    ("What is the chemical symbol of iron?", "Fe"),
    ("What is the chemical formula of water?", ["H2O", "H₂O"]),
    ("Which organ pumps blood through the body?", "heart"),
    ("Which animal is called the king of the jungle?", "lion"),
    ("Which insect makes honey?", ["bee", "bees", "honeybee", "honeybees"]),
    ("Which ocean is the largest?", "Pacific"),
    ("Which continent is the coldest?", "Antarctica"),
    ("Which is the tallest mountain on Earth?", "Everest"),
    ("Who wrote Romeo and Juliet?", "Shakespeare"),
    ("Who painted the Mona Lisa?", ["Leonardo da Vinci", "da Vinci"]),
    ("Who proposed the theory of relativity?", "Einstein"),
    ("Which language is spoken in Brazil?", "Portuguese"),
    ("Which language is spoken in Austria?", "German"),
    ("Which language is spoken in Argentina?", "Spanish"),
    ("Which currency is used in Japan?", "yen"),
    ("Which currency is used in India?", ["rupee", "rupees"]),
    ("Which currency is used in the United Kingdom?", ["pound", "pound sterling"]),
    ("How many legs does a spider have?", ["8", "eight"]),
    ("How many sides does a triangle have?", ["3", "three"]),
    ("How many days are in a leap year?", "366"),
    ("How many continents are there?", ["7", "seven"]),
    ("How many players of one team are on a football field?", ["11", "eleven"]),
    ("At how many degrees Celsius does water boil?", "100"),
)


def _pairs(text: str) -> list[tuple[str, str]]:
    pairs = (item.split(":") for item in text.split())
    return [(name, value.replace("_", " ")) for name, value in pairs]


def facts(rng: Random) -> Iterator[Task]:
    """Capitals, continents, and general knowledge."""
    questions: list[tuple[str, str | list[str]]] = [
        *((f"What is the capital of {c}?", capital) for c, capital in _pairs(_CAPITALS)),
        *((f"On which continent is {c}?", continent) for c, continent in _pairs(_CONTINENTS)),
        *_OTHERS,
    ]
    rng.shuffle(questions)
    for question, right in questions:
        accepted = [right] if isinstance(right, str) else right
        prompt = f"{question} Answer in a word or two."
        yield Task("facts", prompt, any_word(accepted), max_tokens=16)


_KINDS = {
    "fruit": "apple banana cherry grape lemon mango peach pear plum orange",
    "animal": "horse rabbit tiger whale eagle camel sheep monkey wolf frog",
    "tool": "hammer saw wrench screwdriver drill pliers chisel shovel",
    "vehicle": "bus truck bicycle train tractor motorcycle van taxi",
    "colour": "red green blue yellow purple pink brown grey",
    "musical instrument": "piano violin guitar flute trumpet drum cello harp",
    "piece of furniture": "chair table sofa wardrobe desk bookcase cupboard stool",
    "piece of clothing": "shirt jacket trousers sock scarf glove skirt hat",
    "vegetable": "carrot cabbage spinach potato broccoli onion celery leek",
    "profession": "doctor baker lawyer nurse carpenter teacher plumber pilot",
    "metal": "iron copper silver gold zinc tin aluminium lead",
    "sport": "tennis hockey rugby golf boxing swimming judo basketball",
    "month": "January March April June July October November December",
    "programming language": "Python Java Rust Haskell Fortran Kotlin Perl Ruby",
}
_ASKS = ("Which of these is a {kind}?", "Which of these is not a {kind}?")


def multiple_choice(rng: Random) -> Iterator[Task]:
    """Four options, one of which is (or is not) of a kind."""
    kinds = {kind: words.split() for kind, words in _KINDS.items()}
    while True:
        kind, other = rng.sample(sorted(kinds), 2)
        negated = rng.random() < 0.5
        if negated:
            options = [*rng.sample(kinds[kind], 3), rng.choice(kinds[other])]
        else:
            others = rng.sample(sorted(set(kinds) - {kind}), 3)
            options = [*(rng.choice(kinds[name]) for name in others), rng.choice(kinds[kind])]
        right = options[3]
        if sum(option in kinds[kind] for option in options) != (3 if negated else 1):
            continue  # "orange" is a fruit, and was meant as something else
        rng.shuffle(options)
        listed = " ".join(f"{letter}) {o}" for letter, o in zip("ABCD", options, strict=True))
        article = "an" if kind[0] in "aeiou" else "a"
        ask = _ASKS[negated].format(kind=kind).replace(f"a {kind}", f"{article} {kind}")
        yield Task(
            "multiple_choice",
            f"{ask} {listed}. Answer with the letter only.",
            "ABCD"[options.index(right)],
            max_tokens=12,
        )
