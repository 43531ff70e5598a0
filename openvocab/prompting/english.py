"""Word lists of the rule-based phrase chunker, `openvocab.prompting.phrases`."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = _words("one two three four five six seven eight nine ten eleven twelve dozen several many few some both")
DETERMINERS = NUMBERS | _words("a an the this that these those any each every another all no its his her their my your our")

FUNCTION = _words("""
    in on at by of with without within from to into onto over under above below behind beside besides between near next and
    or but nor while as than for through across around along alongside against inside outside during before after off out
    up down is are was were be been being has have had having do does did can could will would may might must should there
    here it he she they we you i him them us me himself herself itself themselves who whom whose which what where when how
    why if because so too also just not very really quite together away about like toward towards upon among amid atop
    underneath beneath past via per then only even still almost both else other's each-other ahead nearby indoors outdoors
    outside overhead upside yet until since though although whether such same who's that's it's there's is't isn't
    aren't beyond apart aside forward backwards sideways ready able let's etc airborne anywhere everywhere somewhere
    alone asleep awake again often sometimes""")

BE = _words("is are was were be been being get gets got")
RELATIVE = _words("that which who")
INTENSIFIERS = _words("very really quite so too rather extremely")

SINGULAR = _words("a an one each every this another")

# places on a thing: no object by themselves ("on top of it", "the side of a pole"), but an adjective before a noun
PLACES = _words("top front back side sides middle left right bottom center centre edge corner end background foreground")

# heads that say how much of what follows "of" there is: "a group of people" is one phrase
QUANTITIES = _words("""
    group groups bunch bunches pair pairs couple herd herds flock flocks lot lots number variety slice slices piece pieces
    assortment crowd row rows line lines pile piles stack stacks kind type set array collection team bouquet series""")

# a picture of a thing is the thing
VIEWS = _words("picture pictures photo photos photograph image view close-up closeup shot drawing portrait scene close")

ADJECTIVES = _words("""
    red green blue yellow orange purple pink brown black white gray grey gold golden silver tan beige dark light bright
    colorful colourful big small large little tiny huge giant tall short long wide narrow thin thick round square old young
    new modern vintage antique wooden metal plastic empty full open closed clean dirty wet dry hot cold fresh ripe
    beautiful pretty cute nice fancy fluffy furry busy crowded calm sunny cloudy snowy sandy grassy rocky shiny
    transparent clear blurry various different other similar colored coloured striped fat happy sad adult low high""")

# said of a noun before them: "a bowl full of", "its mouth wide open"
TRAILING = _words("full open closed empty high low wide")

COLORS = _words("red green blue yellow orange purple pink brown black white gray grey gold silver tan beige dark light")

# hardly ever nouns
VERBS = _words("""
    sit sits sat stood holds held rides rode ridden wear wears wore worn walks ran eat eats ate eaten lies lay laid lays
    flew flown carry carries carried drove driven swam read reads uses shows shown hangs hung puts put gets get got makes
    make made takes take took taken goes go went gone comes come came throws throw threw thrown catches catch caught pulls
    pull pushes push talks leans lean graze grazes sits tries try keep keeps kept gives give gave given seem seems
    contains contain includes include consists prepares prepare sleeps stares stare gather gathers appear appears learn
    enjoy enjoys hold ride sees seen see wait waits stay stays became become becomes set built filled seated topped
    surround surrounds cover attach say says said bring brings brought perform performs prepare drink drinks drank
    dressed looks laying lying sprays spray shakes shake brushes kicks kick chews chew licks sniffs pets chops pours pour
    washes climbs climb slides balances toss tosses grabs grab swings feeds feed bites serve approach approaches
    touches touch reach reaches follows follow rolls crawls float floats stretch stretches marches march
    decorates prepared served attempts attempt skateboards arrives arrive leaves enters enter smells""")

# nouns as well: verbs after a plural ("people stand by"), or before a determiner or an adverb
NOUN_VERBS = _words("""
    stand watch park rest play walk run cut look face lead fly drive jump smile pose swim hit turn sleep show use hang
    point race surf ski travel move cross work cook fish talk line dance help kiss hug chase""")

# the same with -s: verbs after a singular noun, nouns after a determiner
NOUN_VERBS_S = _words("""
    stands watches parks rests plays runs cuts faces leads flies drives jumps smiles poses swims hits turns surfs skis
    travels moves crosses works cooks dances helps races looks chases points covers fills rolls serves lands stops""")

PLURALS = _words("people men women children kids sheep cattle police teeth feet geese mice fish deer")

ING_NOUNS = _words("""
    building buildings ceiling clothing painting paintings wedding string strings ring rings king wing wings swing swings
    evening morning railing lighting awning thing things something anything nothing everything sibling icing frosting
    bedding dressing stuffing topping toppings seating crossing opening clearing sling pudding dumpling earring
    earrings spring springs offspring duckling setting""")
# "cutting board" is a thing, "cutting cake" is not: the first word and the second
ING_ADJECTIVES = _words("""
    dining living parking swimming cutting rolling shopping sewing washing vending frying baking sleeping playing
    wrapping running serving mixing fishing boxing skiing surfing skating bowling waiting landing training walking hiking
    diving drinking sitting changing operating climbing loading""")
ING_HEADS = _words("""
    board boards room rooms lot lots meter meters pool pools suit suits trunks pin pins bag bags cart carts mall machine
    machines pan pans sheet sheets card cards field paper shoes bowl bowls rod rods pole poles boat boats ring gloves area
    areas table tables space spaces spot spots garage gear strip track tray trays park rink alley stick sticks fountain
    stall wall dock boots""")

ED_NOUNS = _words("bed seed weed seaweed shed sled bobsled speed breed hundred moped flowerbed red reed steed naked")

LY_CONTENT = _words("""
    family butterfly belly jelly lily fly lovely lively curly friendly hilly holly bully ally silly ugly elderly trolley
    early potbelly firefly dragonfly""")
