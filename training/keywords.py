"""Further words for the things of `concepts.py`: the keywords that emojibase and emojilib list for their emoji.

They name a thing loosely ("antarctica": penguin), so they count only where no thing is named. A keyword of several
emoji belongs to the most popular thing. Left out: words that the grammar reads otherwise (colours, "cute", "big"),
words of no picture ("where", "side"), slang, abuse, and words that make a people or an illness a thing.
"""

from __future__ import annotations

_TABLE = """
cat: animal, nature, pet
dog: faithful, friend
apple: diet, food, fruit, health, mac, plant, ripe, school
rocket: deploy, fly, launch, nasa, outer space, travel
heart: emotion, heavy
house: country, ranch, settle, simple, suburban, suburbia
smiling face: crush, embarrassed, face, flushed, glad, proud, satisfied, shy, smiling face with
  smiling eyes
robot: monster
pizza: hungry, italy, party, slice
car: driving, transportation
star: astronomy
tree: deciduous, deciduous tree, habitat, rounded, shedding
sun: beach, bright, brightness, rays, spring, summer, weather
ghost: creature, disappear, excited, fairy, fairytale, fantasy, haunting, silly, tale
unicorn: mystical, unicorn face
flower: fall, outdoors
rainbow: lgbt, lgbtq, primary, sky
banana: plantain, potassium
guitar: activity, bass, electric, entertainment, instrument, music, rock
fish: fishes, ocean, swim, tropical
panda: bamboo
lion: alpha, leo, mane, rawr, roar, safari, strong, zodiac
tiger: danger, predator, tiger face
rabbit: easter, rabbit face
bear: growl, honey
bird: ornithology
penguin: antarctica
owl: wise
monkey: circus, head, monkey face
elephant: nose
frog: croak
pig: bacon, farm, pig face, pork
cow: beef, cow face
horse: dressage, equine, horse face
mouse: cheese wedge, mouse face
koala: australia, marsupial
chicken: cluck
chick: front facing baby chick, front-facing baby chick, hatched, newborn
turtle: slow, terrapin
snake: hiss, ophiuchus
octopus: sea
crab: crustacean
dolphin: fins, flipper
whale: spouting, spouting whale
shark: great
dinosaur: extinct, rex, t rex
dragon: dragon face, myth
butterfly: caterpillar, insect
bee: bug
ladybug: garden, lady
snail: escargot, shell
spider: arachnid
flamingo: flamboyant
parrot: pirate, talk
hedgehog: spiny
orange: vitamin
lemon: lemonade, sour
watermelon: picnic
grapes: dionysus
cherry: berries
pineapple: colada, pina
tomato: vegetable
corn: cob, crops, ear, ear of corn
broccoli: cabbage
bread: breakfast, carbs, grain, restaurant, wheat
cheese: swiss, wedge
burger: burger king, eat, fast food, meat
fries: french, mcdonald's, potato, snack
hot dog: frankfurter, hot, redhot, wiener
sushi: japanese, rice, sashimi, seafood
cake: celebration, dessert, pastry
cupcake: bakery, sprinkles, sugar, treat
cookie: chip
ice cream: cream, ice, serve, soft, soft ice cream, whippy
coffee: beverage, cafe, chai, drink, morning, steaming
beer: alcohol, bar, booze, drinking, drinks, mug, octoberfest, oktoberfest, pub, relax, stein
laughing face: face with tears of joy, feels, tear, weep
crying face: bawling, loudly, loudly crying face, unhappy
heart eyes: affection, infatuation, kisses, romance, romantic, smiling face with heart eyes, smiling
  face with heart-eyes, xoxo
angry face: blame, frustrated, maddening, shade
cool face: bro, chilling, eyewear, friends, mutual, rad, relaxed, swag, win
sleeping face: bedtime, good, goodnight, whatever, yawn
thinking face: chin, consider, wondering
winking face: heartbreaker, mischievous, secret, slide, tease, winks
scared face: alone, epic, face screaming in fear, munch, screamer, woah
skull: creepy, yolo
pumpkin: gourd, jack, lantern, light
snowman: cold, snowman without snow
santa: christmas, claus, father, festival, holiday, merry, nicholas, saint, sinterklaas, xmas
moon: evening, ramadan
cloud: overcast
fire: burn, cook, lit, tool
lightning: high voltage
snowflake: season, snowing
rose: beauty, elegant
cactus: drought
earth: globe showing americas
bicycle: class, cyclist, gang, ride, spin, spinning
boat: resort
train: caboose, engine, steam
castle: european, history, royalty, turrets
balloon: celebrate
crown: clothing, family, leader, lord, medieval
diamond: engagement, gem stone, stone, wedding
soccer ball: sport
gift: bow, box, surprise, wrapped
poop: bad, comic, dirt, doo, dung, fail, hankey, needs improvement, pile, smelly, stink, stinks,
  stinky
"""


def _parse(table: str) -> dict[str, tuple[str, ...]]:
    lines = table.replace("\n  ", " ").strip().splitlines()
    entries = (line.split(": ", 1) for line in lines)
    return {name: tuple(words.split(", ")) for name, words in entries}


KEYWORDS = _parse(_TABLE)
"""Keywords by a concept's name."""
