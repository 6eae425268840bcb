"""Questions with many right answers: some sentences, things of a kind, explanations."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from integrations.demo.recorded.task import Task

_WORDS = """
river window engine garden winter copper market needle harbor forest letter planet silver bridge
candle summer orange pencil basket castle dragon empire falcon guitar hammer island jungle kitten
ladder magnet oyster parrot rabbit saddle temple violin walnut apple bread chair dance flame horse
juice knife lemon music night ocean piano queen robot sugar table uncle voice zebra coffee teacher
doctor mountain umbrella airplane birthday breakfast computer elephant football holiday
"""


_TOPICS = """
the ocean=ocean|sea;a rainy day=rain;a good friend=friend;coffee=coffee;the moon=moon;a library=librar;
winter=winter|snow|cold;summer=summer|sun|warm;a garden=garden;music=music;football=football|soccer;
a train journey=train;a busy market=market;the desert=desert;dogs=dog;cats=cat;bees=bee;trees=tree;
mountains=mountain;rivers=river;bicycles=bicycle|bike;airplanes=airplane|plane;books=book;bread=bread;
chocolate=chocolate;tea=tea;breakfast=breakfast;a birthday party=birthday|party;a school=school;
a hospital=hospital;the kitchen=kitchen;a rainbow=rainbow;stars=star;a thunderstorm=storm|thunder;
the beach=beach;a small village=village;a big city=city;a farm=farm;horses=horse;elephants=elephant;
a museum=museum;dancing=danc;cooking=cook;painting=paint;swimming=swim;sleep=sleep;exercise=exercis;
healthy food=food|health;recycling=recycl;the internet=internet;computers=computer;robots=robot;
a lighthouse=lighthouse;an island=island;a castle=castle;autumn leaves=lea|autumn;spring=spring|flower
"""


_ASKS = ("Tell me about {x} in a sentence or two.", "Describe {x} in a sentence or two.")


def writing(rng: Random) -> Iterator[Task]:
    """A sentence or two about something everyone knows, to their end."""
    topics = [item.strip().split("=") for item in _TOPICS.replace("\n", "").split(";")]
    asked = [(form.format(x=topic), words) for topic, words in topics for form in _ASKS]
    rng.shuffle(asked)
    for prompt, words in asked:
        pattern = rf"(?is)\A(?=.*\b(?:{words})).*[.!?][\"')]*\s*\Z"
        yield Task("writing", prompt, pattern, max_tokens=64)


def use_word(rng: Random) -> Iterator[Task]:
    """A sentence in which one or two given words stand."""
    words = _WORDS.split()
    while True:
        if rng.random() < 0.6:
            (first,) = wanted = rng.sample(words, 1)
            prompt = f"Write a sentence with the word '{first}'."
        else:
            first, second = wanted = rng.sample(words, 2)
            prompt = f"Write a sentence with the words '{first}' and '{second}'."
        parts = "".join(rf"(?=.*\b{word})" for word in wanted)
        yield Task("use_word", prompt, rf"(?is)\A{parts}", max_tokens=32)


_KINDS = {
    "fruits": r"""apple banana cherr grape lemon lime mango peach pear plum orange kiwi strawberr
        blueberr raspberr melon pineapple papaya apricot fig pomegranate avocado guava""",
    "vegetables": r"""carrot cabbage spinach potato broccoli onion celery pepper tomato lettuce bean
        cucumber cauliflower kale pea zucchini garlic radish beet corn pumpkin asparagus eggplant""",
    "colours": r"""red blue green yellow black white orange purple pink brown gr[ae]y violet cyan
        magenta turquoise indigo gold silver""",
    "farm animals": "cow pig sheep goat horse chicken duck hen cattle donkey turkey goose geese lamb",
    "wild animals": r"""lion tiger elephant bear wolf wolves fox deer giraffe zebra monkey leopard
        cheetah gorilla panda kangaroo rhino hippo eagle crocodile snake jaguar shark rabbit""",
    "birds": r"""eagle sparrow robin owl parrot crow pigeon hawk penguin falcon swan duck finch jay
        bluebird cardinal crane hummingbird ostrich peacock flamingo raven dove gull seagull stork
        woodpecker canary heron pelican vulture goose geese chicken turkey""",
    "countries in Europe": r"""france germany italy spain portugal poland greece sweden norway
        austria belgium netherlands denmark finland ireland switzerland hungary czech romania
        croatia (?:united.kingdom) england russia ukraine iceland serbia bulgaria""",
    "countries in Asia": r"""china japan india vietnam thailand (?:south.korea) (?:north.korea)
        korea indonesia nepal iran iraq malaysia singapore pakistan bangladesh philippines mongolia
        cambodia laos myanmar israel (?:saudi.arabia) turkey russia kazakhstan (?:sri.lanka)""",
    "capital cities": r"""paris london berlin rome madrid tokyo moscow cairo washington beijing delhi
        ottawa canberra vienna lisbon athens oslo stockholm bras.lia seoul bangkok dublin brussels
        copenhagen helsinki warsaw prague (?:buenos.aires) (?:mexico.city)""",
    "musical instruments": r"""piano violin guitar flute trumpet drum cello harp clarinet saxophone
        trombone organ bass tuba oboe ukulele banjo viola accordion""",
    "sports": r"""football soccer tennis hockey rugby golf boxing swimming basketball baseball
        cricket volleyball badminton cycling running skiing wrestling athletics gymnastics""",
    "pieces of furniture": r"""chair table sofa couch wardrobe desk bed shelf shelves bookcase
        bookshelf cupboard stool dresser cabinet nightstand bench armchair lamp""",
    "pieces of clothing": r"""shirt jacket trousers pants sock scarf glove skirt hat coat dress jeans
        sweater (?:t.shirt) shoe blouse shorts suit tie hoodie""",
    "kitchen tools": r"""knife knives spoon fork pan pot whisk spatula bowl grater peeler blender
        (?:cutting.board) tongs ladle colander scissors oven toaster mixer""",
    "means of transport": r"""car bus train bicycle bike plane airplane boat ship tram taxi motorcycle
        truck subway metro walking ferry helicopter scooter""",
    "planets": "mercury venus earth mars jupiter saturn uranus neptune pluto",
    "metals": r"""iron copper silver gold zinc tin alumin lead steel nickel titanium platinum bronze
        brass mercury magnesium""",
    "drinks": r"""water coffee tea juice milk beer wine soda lemonade smoothie coke coca cola
        (?:hot.chocolate) cocktail""",
    "professions": r"""doctor teacher nurse lawyer engineer baker chef pilot plumber carpenter writer
        artist accountant dentist architect scientist police actor musician programmer manager
        electrician mechanic journalist librarian firefighter designer developer farmer singer""",
    "school subjects": r"""math history english science physics chemistry biology geography art
        music literature language economics (?:physical.education) (?:computer.science)""",
    "months": r"""january february march april may june july august september october november
        december""",
    "days of the week": "monday tuesday wednesday thursday friday saturday sunday",
    "flowers": r"""rose tulip daisy daisies lily lilies sunflower orchid daffodil violet iris
        carnation lavender peony peonies marigold hydrangea chrysanthemum lotus jasmine""",
    "trees": r"""oak pine maple birch willow cedar fir elm ash spruce beech cherry apple palm cypress
        redwood sequoia eucalyptus walnut chestnut poplar sycamore mahogany acacia banyan olive""",
    "programming languages": r"""python java rust ruby javascript perl go swift kotlin haskell
        c\+\+ c# c\b php scala typescript sql matlab html r\b fortran lua""",
    "insects": r"""ant bee butterfl fly flies beetle mosquito wasp moth grasshopper dragonfl cricket
        ladybug ladybird cockroach spider termite hornet firefl locust""",
}
_COUNTS = {"two": 2, "three": 3, "four": 4}


def list_things(rng: Random) -> Iterator[Task]:
    """Two to four things of a kind; the pattern counts those it knows."""
    while True:
        kind, (word, count) = rng.choice(sorted(_KINDS)), rng.choice(sorted(_COUNTS.items()))
        verb = rng.choice(("Name", "List"))
        known = "|".join(_KINDS[kind].split())
        pattern = rf"(?is)(?:\b(?:{known}).*?){{{count}}}"
        yield Task("list_things", f"{verb} {word} {kind}.", pattern, max_tokens=32)


_EXPLAINED = """
What is a hammer used for?=nail
What is an umbrella used for?=rain|sun
What is a refrigerator used for?=cold|cool|fresh|food
What is a thermometer used for?=temperature
What is a compass used for?=direction|navigat|north
What is a telescope used for?=star|planet|distan|sky|space
What is a microscope used for?=small|tiny|cell|magnif
What is a calendar used for?=date|day|time|schedul
What is a dictionary used for?=word|meaning|defin
What is a map used for?=direction|location|way|place|navigat|area
What is a camera used for?=photo|picture|image|captur
What is a bridge used for?=cross|connect|river|water
What is a ladder used for?=climb|high|reach
What is soap used for?=clean|wash
What is a pillow used for?=sleep|head|comfort|rest
What is a key used for?=lock|open|door
What is an oven used for?=bak|cook|heat|food
What is a broom used for?=sweep|clean|floor
What is a helmet used for?=protect|head|safe
What is a stapler used for?=paper|fasten|staple
What is a calculator used for?=calculat|math|number
What is a vaccine used for?=disease|immun|protect|infect
What is a password used for?=secur|access|account|protect
What is a printer used for?=print|paper|document
What is a microphone used for?=sound|voice|audio|record
What does a baker do?=bread|bak|cake|pastr
What does a plumber do?=pipe|water|drain|plumb
What does a pilot do?=fly|flies|plane|aircraft
What does a teacher do?=teach|learn|student|educat
What does a nurse do?=care|patient|health|medic
What does a farmer do?=crop|grow|animal|land|food
What does a judge do?=law|court|case|decision|legal
What does a gardener do?=plant|garden|flower
What does a dentist do?=teeth|tooth|dental|oral
What does a firefighter do?=fire|rescue
What does a librarian do?=book|librar|information
What does a carpenter do?=wood|furniture|build
What does an architect do?=design|building
What does a journalist do?=news|report|stor|write
What does a mechanic do?=car|repair|vehicle|engine|machine
What does a tailor do?=cloth|sew|garment|suit
What does a waiter do?=food|serv|customer|restaurant
What does an astronomer do?=star|planet|space|universe|celestial
What does a veterinarian do?=animal|pet
What does a translator do?=language|translat
What does an electrician do?=electric|wir
What does a lifeguard do?=swim|safe|water|rescue|beach
What does a detective do?=crime|investigat|case|evidence
What does a barber do?=hair|beard|cut|shav
What does a butcher do?=meat|animal
What is photosynthesis?=light|plant|energy
What is gravity?=force|mass|attract|pull
What is a volcano?=lava|magma|erupt|mountain
What is an earthquake?=ground|shak|earth|seismic|plate
What is a rainbow?=light|colo|rain|water
What is a desert?=dry|rain|sand|water|arid
What is an island?=water|land|sea|ocean
What is a glacier?=ice|snow
What is a fossil?=remain|rock|ancient|preserv|organism
What is a democracy?=people|vote|elect|citizen|government
What is inflation?=price|money|value|cost
What is a budget?=money|plan|spend|expens|income|financ
What is an invoice?=bill|payment|pay|goods|document
What is a receipt?=payment|purchase|proof|paid|document
What is a refund?=money|return|pay|back
What is a warranty?=product|guarantee|repair|replac|defect
What is a discount?=price|reduc|lower
What is a subscription?=pay|regular|service|access
What is an e-mail attachment?=file|document|send|sent
What is a web browser?=internet|web|software|page
What is a computer virus?=program|software|malicious|computer|malware
What is a database?=data|information|stor
What is an algorithm?=step|problem|instruction|procedure|process
What is a variable in programming?=value|store|data|memory|hold
What is a loop in programming?=repeat|time|iterat|execut
What is a library?=book|collect
What is a museum?=art|history|object|exhibit|collect
What is a hospital?=patient|medical|care|health|sick
What is an orchestra?=music|instrument
What is a marathon?=run|race|kilomet|mile
What is a recipe?=cook|ingredient|instruction|food|dish
What is a vitamin?=nutrient|body|health|food|organic
What is a hurricane?=storm|wind|tropical
What is an eclipse?=moon|sun|earth|shadow
What is a novel?=book|story|fiction|narrative|literature
What is a sculpture?=art|stone|form|carv|material
What is a passport?=travel|document|country|identit
What is a souvenir?=remember|memor|travel|place|item|keepsake
"""


def explain(rng: Random) -> Iterator[Task]:
    """What a thing is, is for, or what somebody does: a word that no explanation can do without."""
    questions = [line.split("=") for line in _EXPLAINED.strip().splitlines()]
    rng.shuffle(questions)
    for question, needed in questions:
        yield Task("explain", question, rf"(?i)\b(?:{needed})", max_tokens=36)
