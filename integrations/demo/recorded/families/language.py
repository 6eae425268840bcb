"""Courtesies, sentiment of a review, forms and opposites of words, days and months."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task, any_word

_THINGS = (
    *("phone", "hotel", "blender", "headset", "restaurant", "course", "backpack", "printer"),
    *("film", "jacket", "app", "book", "coffee maker", "bike", "mattress", "keyboard"),
)
_PLAIN = {
    "positive": (
        *("Great {x}, I love it", "The best {x} I ever had", "This {x} is wonderful"),
        *("Excellent {x}, highly recommended", "I am very happy with this {x}"),
        *("Amazing {x}, worth every cent", "Fantastic {x} and a friendly service"),
    ),
    "negative": (
        *("Terrible {x}, I hate it", "The worst {x} I ever had", "This {x} is awful"),
        *("Poor {x}, not recommended", "I am very unhappy with this {x}"),
        *("Horrible {x}, a waste of money", "Disappointing {x} and a rude service"),
    ),
}
_SUBTLE = {
    "positive": (
        *("I expected little of this {x}, and I was wrong", "Not bad at all, this {x}"),
        *("I can't say one bad word about this {x}", "My old {x} goes to the attic now"),
        *("The price hurts, but I would buy this {x} again", "No complaints about the {x}"),
        *("After a slow start this {x} won me over", "I never want another {x}"),
    ),
    "negative": (
        *("I wanted to like this {x}", "A {x} that is good for the bin", "Never again this {x}"),
        *("The {x} looks great, and that is all it does", "I should have kept my old {x}"),
        *("Great {x}, if you enjoy sending things back", "The {x} lasted for two days"),
        *("For this price I expected a {x} that works", "Hardly what I call a good {x}"),
    ),
}


_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_NAMES = ("Anna", "Omar", "Lucas", "Priya", "Jonas", "Elena", "David", "Fatima", "Oscar", "Grace")
_GOODS = ("phone", "blender", "headset", "backpack", "printer", "jacket", "book", "bike", "lamp")
_COURTESIES = (
    ("thank {name} for buying a {x}", ("{name}", "{x}", "thank")),
    ("tell {name} that the {x} arrives on {day}", ("{name}", "{x}", "{day}")),
    ("apologise to {name} for the late {x}", ("{name}", "{x}", "sorry|apolog")),
    ("welcome {name} as a new customer", ("{name}", "welcome")),
    ("remind {name} of the appointment on {day}", ("{name}", "{day}")),
)


def courtesy(rng: Random) -> Iterator[Task]:
    """A sentence to a customer; it has to name what it was asked to name."""
    while True:
        ask, needed = rng.choice(_COURTESIES)
        words = {"name": rng.choice(_NAMES), "x": rng.choice(_GOODS), "day": rng.choice(_DAYS)}
        parts = "".join(f"(?=.*\\b(?:{part.format(**words)}))" for part in needed)
        prompt = f"Write one short sentence to {ask.format(**words)}."
        yield Task("courtesy", prompt, f"(?is)\\A{parts}", max_tokens=36)


def sentiment(rng: Random) -> Iterator[Task]:
    """Plain reviews, and ones that have to be understood."""
    while True:
        mood = rng.choice(("positive", "negative"))
        forms = (_PLAIN if rng.random() < 0.5 else _SUBTLE)[mood]
        text = rng.choice(forms).format(x=rng.choice(_THINGS))
        prompt = f"Is this review positive or negative? '{text}.' Answer with one word."
        yield Task("sentiment", prompt, mood, max_tokens=12)


_OPPOSITES = """
hot:cold big:small|little fast:slow up:down happy:sad|unhappy light:dark|heavy old:young|new
open:closed|close|shut rich:poor strong:weak full:empty early:late hard:soft|easy wet:dry near:far
loud:quiet|soft clean:dirty high:low long:short day:night black:white left:right win:lose
begin:end|finish buy:sell push:pull love:hate true:false inside:outside above:below north:south
east:west top:bottom thick:thin wide:narrow sharp:dull|blunt brave:cowardly|afraid|timid noisy:quiet
ancient:modern|new generous:stingy|selfish|mean expand:contract|shrink accept:reject|refuse
arrive:depart|leave victory:defeat ascend:descend scarce:abundant|plentiful
"""
_PLURALS = """
child:children mouse:mice foot:feet tooth:teeth man:men woman:women goose:geese box:boxes
city:cities leaf:leaves knife:knives wolf:wolves baby:babies tomato:tomatoes bus:buses dog:dogs
sheep:sheep fish:fish|fishes ox:oxen cactus:cacti|cactuses crisis:crises analysis:analyses
shelf:shelves hero:heroes lady:ladies wife:wives potato:potatoes criterion:criteria church:churches
person:people phenomenon:phenomena fungus:fungi|funguses
"""
_PASTS = """
go:went eat:ate run:ran see:saw take:took write:wrote buy:bought think:thought sing:sang
swim:swam drive:drove break:broke speak:spoke bring:brought teach:taught catch:caught fly:flew
grow:grew know:knew give:gave find:found sell:sold tell:told build:built walk:walked play:played
begin:began choose:chose freeze:froze forget:forgot hide:hid shake:shook steal:stole tear:tore
weave:wove seek:sought lead:led
"""
_COMPARATIVES = """
good:better bad:worse far:farther|further big:bigger happy:happier small:smaller easy:easier
hot:hotter thin:thinner little:less|littler|smaller busy:busier
"""


def word_forms(rng: Random) -> Iterator[Task]:
    """Opposites, plurals, past tenses and comparatives, regular and irregular."""
    asked = (
        ("the opposite of", _OPPOSITES),
        ("the plural of", _PLURALS),
        ("the past tense of", _PASTS),
        ("the comparative of", _COMPARATIVES),
    )
    questions = [(what, *item.split(":")) for what, pairs in asked for item in pairs.split()]
    rng.shuffle(questions)
    for what, word, right in questions:
        prompt = f"What is {what} the word '{word}'? Answer with one word."
        yield Task("word_forms", prompt, any_word(right.split("|")), max_tokens=16)


_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)


def calendar(rng: Random) -> Iterator[Task]:
    """A day or a month some steps before or after another."""
    while True:
        names, unit = rng.choice(((_DAYS, "day"), (_MONTHS, "month")))
        start, steps = rng.randrange(len(names)), rng.choice((1, 1, 2, 3, 4, 5, 6, 8, 9, 10))
        sign, side = rng.choice(((1, "after"), (-1, "before")))
        right = names[(start + sign * steps) % len(names)]
        plural = "" if steps == 1 else "s"
        prompt = (
            f"Which {unit} is {steps} {unit}{plural} {side} {names[start]}? Answer with one word."
        )
        yield Task("calendar", prompt, any_word([right]), max_tokens=12)
