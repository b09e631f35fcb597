"""Further words for the things of `concepts.py`: the keywords that emojibase and emojilib list for their emoji.

They name a thing loosely ("antarctica": penguin), so they count only where no thing is named. A keyword of several
emoji belongs to the most popular thing. Left out: words that the grammar reads otherwise (colours, "cute", "big"),
words of no picture ("where", "side"), slang, abuse, and words that make a people or an illness a thing.
"""

from __future__ import annotations

_TABLE = """
cat: animal, nature, pet
dog: faithful, friend
apple: diet, food, fruit, health, mac, ripe
rocket: deploy, launch, nasa, travel
heart: emotion, heavy
house: country, ranch, settle, simple, suburban, suburbia
smiling face: crush, face, glad, proud, satisfied, shy, smiling face with smiling eyes
pizza: italy, slice
car: driving, transportation
star: astronomy
tree: deciduous, deciduous tree, habitat, rounded, shedding
sun: bright, brightness, rays, spring, summer, weather
ghost: creature, disappear, fairytale, fantasy, haunting, silly, tale
unicorn: mystical, unicorn face
flower: fall, outdoors
rainbow: lgbt, lgbtq, primary, sky
banana: plantain, potassium
guitar: activity, bass, electric, entertainment, instrument
fish: fishes, ocean, tropical
lion: alpha, leo, mane, rawr, roar, safari, zodiac
tiger: predator, tiger face
rabbit: easter, rabbit face
bear: growl
bird: ornithology
penguin: antarctica
owl: wise
monkey: head, monkey face
frog: croak
pig: farm, pig face, pork
cow: cow face
horse: dressage, equine, horse face
mouse: cheese wedge, mouse face
koala: marsupial
chicken: cluck
chick: front facing baby chick, front-facing baby chick, hatched
turtle: slow, terrapin
snake: hiss, ophiuchus
octopus: sea
crab: crustacean
dolphin: fins, flipper
whale: spouting, spouting whale
shark: great
dinosaur: extinct, rex, t rex
dragon: dragon face, myth
butterfly: insect
ladybug: garden
snail: escargot
spider: arachnid
flamingo: flamboyant
parrot: pirate, talk
hedgehog: spiny
lemon: sour
watermelon: picnic
grapes: dionysus
cherry: berries
pineapple: colada, pina
tomato: vegetable
corn: cob, crops, ear of corn
bread: breakfast, carbs, restaurant
cheese: swiss, wedge
burger: burger king, eat, fast food
fries: french, mcdonald's, snack
hot dog: frankfurter, hot, redhot, wiener
sushi: japanese, sashimi, seafood
cake: dessert, pastry
cupcake: bakery, sprinkles, sugar, treat
cookie: chip
ice cream: cream, serve, soft, soft ice cream, whippy
coffee: beverage, cafe, chai, drink, steaming
beer: alcohol, bar, booze, drinking, drinks, mug, octoberfest, pub, relax, stein
laughing face: face with tears of joy, feels, weep
crying face: bawling, loudly, loudly crying face
heart eyes: affection, infatuation, kisses, romance, romantic, smiling face with heart eyes, smiling
  face with heart-eyes, xoxo
angry face: blame, maddening, shade
cool face: bro, chilling, eyewear, friends, mutual, rad, relaxed, swag, win
sleeping face: good, goodnight, whatever
thinking face: chin, consider, wondering
winking face: heartbreaker, mischievous, secret, tease, winks
scared face: alone, epic, face screaming in fear, munch, screamer, woah
skull: creepy, yolo
pumpkin: gourd, jack, light
snowman: cold, snowman without snow
santa: christmas, claus, festival, holiday, merry, nicholas, saint, sinterklaas, xmas
moon: ramadan
fire: burn, lit, tool
lightning: high voltage
snowflake: season
rose: beauty, elegant
cactus: drought
earth: globe showing americas
bicycle: class, gang, ride, spin, spinning
boat: resort
train: caboose, engine, steam
castle: european, history, royalty, turrets
crown: clothing, family, leader, lord, medieval
diamond: engagement, gem stone
soccer ball: sport
gift: surprise, wrapped
poop: bad, comic, dirt, doo, dung, fail, hankey, needs improvement, pile, smelly, stink, stinks,
  stinky
"""


def _parse(table: str) -> dict[str, tuple[str, ...]]:
    lines = table.replace("\n  ", " ").strip().splitlines()
    entries = (line.split(": ", 1) for line in lines)
    return {name: tuple(words.split(", ")) for name, words in entries}


KEYWORDS = _parse(_TABLE)
"""Keywords by a concept's name."""
