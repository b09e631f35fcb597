"""The 200 things that the model can draw, the words that people use for them, and its colours.

The table is data written by hand; `words` of a concept are what should draw it, the first being its name. Keywords
of emojibase and emojilib are added to them in `grammar.py`, where they are unambiguous.

The order matters: it is the ranking by popularity. A typed prefix draws the first concept in this order that has a
word beginning with it, so "r" draws a rocket, "c" a cat and "d" a dog, always.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Concept:
    """One drawable thing: its art's name in the icon set, and the words for it, the name first."""

    art: str
    words: tuple[str, ...]

    @property
    def name(self) -> str:
        """The concept's plain English name."""
        return self.words[0]


_TABLE = """
cat-face: cat, kitty, kitten, kittycat, pussycat, feline, meow, tomcat, cat face, cats
dog-face: dog, puppy, doggy, doggo, pup, hound, woof, canine, dog face, dogs, puppies, doggie, golden
  retriever, poodle, corgi, labrador, husky, bulldog, dalmatian, dachshund
red-apple: apple, red apple, apples
rocket: rocket, spaceship, rocket ship, spacecraft, space shuttle, shuttle, rockets, rocketship
red-heart: heart, red heart, love, valentine, hearts, valentines
house: house, home, cottage, hut, cabin, building, houses
smiling-face-with-smiling-eyes: smiling face, smile, smiley, smiling, happy face, happy, smiley face, blush,
  smiling emoji, smile emoji, grinning, grinning face, smiles, joy
robot: robot, android, bot, droid, mech, robots, machine
pizza: pizza, pizza slice, slice of pizza, pepperoni, pizzas
automobile: car, automobile, auto, vehicle, sedan, cars, racing car, race car, sports car
star: star, gold star, stars
deciduous-tree: tree, oak, trees, forest, oak tree, pine tree, apple tree, wood, woods
sun: sun, sunshine, sunny, sunlight, suns
ghost: ghost, spirit, spooky, boo, phantom, ghosts, ghoul
unicorn: unicorn, magical horse, unicorns
sunflower: flower, sunflower, blossom, flowers, daisy
rainbow: rainbow, rainbows, pride
banana: banana, bananas
guitar: guitar, electric guitar, guitars, acoustic guitar
tropical-fish: fish, tropical fish, angelfish, goldfish, nemo
panda: panda, panda bear, pandas
lion: lion, king of the jungle, lions, lioness
tiger-face: tiger, bengal tiger, tigers
fox: fox, red fox, vixen, foxes
rabbit-face: rabbit, bunny, hare, bunny rabbit, easter bunny, rabbits, bunnies
bear: bear, brown bear, grizzly, grizzly bear, bears, polar bear
bird: bird, cardinal, robin, birdie, birds, sparrow
penguin: penguin, pingu, penguins
owl: owl, hoot, owls
monkey-face: monkey, chimp, chimpanzee, ape, monkeys
elephant: elephant, elefant, elephants
frog: frog, toad, froggy, frogs
pig-face: pig, piggy, piglet, hog, swine, pigs, oink
cow-face: cow, cattle, moo, calf, cows, bull, ox
horse-face: horse, pony, stallion, mare, horses
mouse-face: mouse, mice, rat, rodent
koala: koala, koala bear, koalas
chicken: chicken, hen, rooster, chickens
duck: duck, mallard, duckling, ducks, rubber duck
front-facing-baby-chick: chick, baby chick, baby bird
turtle: turtle, tortoise, turtles
snake: snake, serpent, python, cobra, snakes
octopus: octopus, squid, octopuses, kraken
crab: crab, crabs, lobster
dolphin: dolphin, porpoise, dolphins
spouting-whale: whale, blue whale, humpback, whales, orca
shark: shark, great white shark, great white, sharks, jaws
t-rex: dinosaur, dino, t-rex, trex, tyrannosaurus, tyrannosaurus rex, dinosaurs, dinos
dragon-face: dragon, dragons
butterfly: butterfly, moth, butterflies
honeybee: bee, honeybee, bumblebee, honey bee, wasp, bees
lady-beetle: ladybug, ladybird, lady beetle, beetle
snail: snail, slug, snails
spider: spider, tarantula, spiders
flamingo: flamingo
parrot: parrot, macaw, parrots
hedgehog: hedgehog, porcupine
tangerine: orange, tangerine, mandarin, clementine, orange fruit, oranges
lemon: lemon, citrus, lemons
watermelon: watermelon, melon, watermelon slice, watermelons
grapes: grapes, grape
strawberry: strawberry, strawberries, berry
cherries: cherry, cherries
pineapple: pineapple, pineapples
peach: peach, nectarine, peaches
avocado: avocado, guacamole, avocados
tomato: tomato, tomatoes, tomatoe
carrot: carrot, carrots
ear-of-corn: corn, maize, sweetcorn, corn on the cob
broccoli: broccoli
mushroom: mushroom, toadstool, fungus, mushrooms, shroom
bread: bread, loaf, toast, loaf of bread, bread loaf, baguette
cheese-wedge: cheese, cheddar
hamburger: burger, hamburger, cheeseburger, big mac, burgers, hamburgers, mcdonalds
french-fries: fries, french fries, chips, potato chips
hot-dog: hot dog, hotdog, sausage
taco: taco, tacos
sushi: sushi, nigiri
birthday-cake: cake, birthday cake, birthday, cakes, bday cake, bday
cupcake: cupcake, muffin, cupcakes
cookie: cookie, biscuit, chocolate chip cookie, cookies, oreo
doughnut: donut, doughnut, donuts, doughnuts
soft-ice-cream: ice cream, ice cream cone, icecream, gelato, soft serve, sundae
hot-beverage: coffee, tea, cup of coffee, cup of tea, espresso, latte, cappuccino, hot chocolate, cocoa, mug
  of coffee, teacup, hot beverage, caffeine
beer-mug: beer, ale, lager, pint, mug of beer, beers, beer mug, drunk
face-with-tears-of-joy: laughing face, laughing, laugh, lol, tears of joy, laughing emoji, haha, funny, rofl,
  lmao, hilarious, hehe
loudly-crying-face: crying face, crying, cry, sad, sad face, sobbing, tears, sob, weeping, upset, depressed
smiling-face-with-heart-eyes: heart eyes, in love, lovestruck, heart eyes face, adoring, heart-eyes, heart
  eye emoji, hearts for eyes
angry-face: angry face, angry, anger, mad, furious, rage, grumpy, annoyed, furious face
smiling-face-with-sunglasses: cool face, cool, cool guy, face with sunglasses, awesome,
  smiling face with sunglasses
sleeping-face: sleeping face, sleeping, sleep, sleepy, zzz, tired, snoring, asleep, nap, bed, good night
thinking-face: thinking face, thinking, think, hmm, pondering, thinker, ponder, hmmm
winking-face: winking face, wink, winking, winky, flirt, flirty
face-screaming-in-fear: scared face, scared, screaming, scream, fear, shocked, surprised, afraid, fearful,
  terrified, horror, omg, surprised face, shocked face
alien: alien, extraterrestrial, martian, aliens
skull: skull, skeleton, death, dead, bones, poison
jack-o-lantern: pumpkin, jack-o-lantern, halloween, jack o lantern, pumpkins, jackolantern
snowman-without-snow: snowman, frosty, snowmen
santa-claus: santa, santa claus, father christmas, saint nicholas
crescent-moon: moon, crescent moon, crescent, lunar, half moon, night sky
cloud: cloud, clouds, cloudy
fire: fire, flame, flames, burning, blaze, campfire, bonfire
high-voltage: lightning, thunder, lightning bolt, bolt, electricity, thunderbolt, storm, zap, voltage
snowflake: snowflake, snow, winter, snowflakes, blizzard
rose: rose, roses, red rose, red roses
cactus: cactus, saguaro, cacti, desert
globe-showing-americas: earth, planet, globe, world, planet earth, globe of the earth
bicycle: bicycle, bike, cycle, pushbike, bikes, cycling
airplane: airplane, plane, aeroplane, jet, aircraft, flight, airplanes, planes, aeroplanes
sailboat: boat, sailboat, ship, yacht, sailing, sailing boat, boats, sailing ship
bus: bus, school bus, coach, buses
locomotive: train, locomotive, steam train, steam engine, railway, trains, steam locomotive
castle: castle, fortress, palace, castles
balloon: balloon, balloons
crown: crown, king, queen, tiara, royal
gem-stone: diamond, gem, jewel, gemstone, diamonds, ruby, jewelry
umbrella: umbrella, parasol, umbrellas, rain
soccer-ball: soccer ball, football, soccer, ball, futbol, footballs
wrapped-gift: gift, present, wrapped gift, gift box, gifts, presents, christmas present
pile-of-poo: poop, poo, pile of poo, turd, shit, crap, poop emoji
camera: camera, photo camera, cameras, digital camera, webcam
wolf: wolf, wolves, werewolf, gray wolf, she-wolf
ewe: sheep, lamb, ewe, lambs, wooly sheep
deer: deer, stag, fawn, reindeer, elk, antelope
giraffe: giraffe, giraffes
zebra: zebra, zebras
kangaroo: kangaroo, wallaby, kangaroos, joey
crocodile: crocodile, alligator, croc, gator, crocodiles, alligators
eagle: eagle, hawk, falcon, eagles, bald eagle
bat: bat, bats, vampire bat, fruit bat
gorilla: gorilla, gorillas, silverback
chipmunk: squirrel, chipmunk, squirrels, chipmunks
jellyfish: jellyfish, jelly fish
palm-tree: palm tree, palm, palms, coconut palm, palm trees
tulip: tulip, tulips
christmas-tree: christmas tree, xmas tree, christmas trees
water-wave: wave, waves, big wave, tsunami, ocean wave, sea wave
droplet: water drop, droplet, drop, water, drop of water, raindrop, waterdrop, drops, raindrops
snow-capped-mountain: mountain, mountains, alps, mountain peak, snowy mountain, mount everest, everest, hill
volcano: volcano, volcanoes, volcanos, lava, eruption
church: church, chapel, cathedral, churches
hospital: hospital, clinic, hospitals, infirmary
tent: tent, camping, camping tent, tents, camp
pear: pear, pears
egg: egg, eggs, chicken egg
sandwich: sandwich, sandwiches, blt, panini, club sandwich
popcorn: popcorn, pop corn, box of popcorn
chocolate-bar: chocolate, chocolate bar, chocolates, bar of chocolate, candy bar
candy: candy, sweet, candies, bonbon, toffee, sweets
glass-of-milk: milk, glass of milk, milk glass
wine-glass: wine, wine glass, glass of wine, red wine, glass of red wine, merlot
taxi: taxi, taxi cab, cab, yellow cab, taxis, cabs, taxicab
police-car: police car, police, cop car, cops, patrol car, police cars, cop
fire-engine: fire engine, fire truck, firetruck, fire trucks, fire engines
ambulance: ambulance, ambulances
motorcycle: motorcycle, motorbike, motorcycles, motor bike, chopper bike, motorbikes
tractor: tractor, tractors, farm tractor
delivery-truck: truck, delivery truck, lorry, van, trucks, delivery van
helicopter: helicopter, chopper, helicopters, heli
flying-saucer: ufo, flying saucer, alien ship, alien spaceship, saucer, ufos
satellite: satellite, satellites, space satellite
anchor: anchor, anchors
clown-face: clown, clown face, clowns, joker, jester
astronaut: astronaut, spaceman, cosmonaut, astronauts, space man
dress: dress, dresses, gown, frock, ball gown
smiling-face-with-horns: devil, demon, satan, devils, smiling devil, evil face, imp
eyes: eyes, eye, eyeballs, eyeball, looking eyes
raised-hand: hand, raised hand, palm of a hand, high five, hands
thumbs-up: thumbs up, thumb, thumbs-up, thumb up
ring: ring, diamond ring, wedding ring, engagement ring, rings
bomb: bomb, bombs, explosive
hammer: hammer, hammers
scissors: scissors, pair of scissors
locked: lock, padlock, locked, locks, padlocks
key: key, keys, house key
bell: bell, bells, jingle bell, jingle bells
drum: drum, drums, snare drum, drum kit, drumsticks
trumpet: trumpet, trumpets, bugle
violin: violin, fiddle, violins, cello
musical-keyboard: piano, pianos, grand piano, piano keys
microphone: microphone, mic, microphones, karaoke
headphone: headphones, headphone, earphones, headset
telephone: telephone, phone, telephones, phones, landline
laptop: computer, laptop, pc, notebook computer, computers, laptops
television: television, tv, telly, tv set, televisions
light-bulb: light bulb, lightbulb, bulb, lamp, light bulbs, idea
closed-book: book, novel, textbook, closed book
pencil: pencil, pencils, crayon
envelope: envelope, letter, mail, envelopes, post, letters
alarm-clock: clock, alarm clock, alarm, clocks, time
glasses: glasses, sunglasses, shades, spectacles, eyeglasses, reading glasses
top-hat: hat, top hat, hats, magician hat, tophat
t-shirt: shirt, t-shirt, tshirt, tee shirt, shirts, tee
running-shoe: shoe, sneaker, shoes, sneakers, running shoe, trainers, running shoes
chair: chair, chairs, seat, wooden chair, stool
candle: candle, candles, candlelight
teddy-bear: teddy bear, teddy, teddy bears, stuffed bear
basketball: basketball, basket ball, basketballs
trophy: trophy, gold cup, trophies, winner, award, champion
money-bag: money, money bag, bag of money, cash, dollars, rich
"""


def _read(table: str) -> dict[str, tuple[str, ...]]:
    """The lists of a table of "name: word, word" lines; an indented line goes on with the one before."""
    lines = (line.split(":", 1) for line in table.strip().replace("\n  ", " ").splitlines())
    return {name: tuple(word.strip() for word in words.split(",") if word.strip()) for name, words in lines}


CONCEPTS: tuple[Concept, ...] = tuple(Concept(art, words) for art, words in _read(_TABLE).items())
"""The concepts, most popular first; a concept's index here is its class everywhere in `training`."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "blue": (65, 125, 225),
    "red": (225, 55, 50),
    "green": (75, 175, 85),
    "black": (18, 18, 20),
    "pink": (248, 150, 190),
    "yellow": (252, 220, 70),
    "purple": (150, 85, 200),
    "orange": (250, 145, 40),
    "teal": (50, 175, 175),
    "gray": (135, 135, 140),
    "navy": (28, 38, 92),
    "brown": (140, 92, 55),
    "white": (255, 255, 255),
}
"""Named colours as sRGB in 0..255, most popular first. White is also what a picture without a named
background gets."""

COLOUR_WORDS: dict[str, str] = {
    **{name: name for name in COLOURS},
    "grey": "gray",
    "silver": "gray",
    "violet": "purple",
    "lilac": "purple",
    "lavender": "purple",
    "magenta": "pink",
    "turquoise": "teal",
    "cyan": "teal",
    "aqua": "teal",
    "gold": "yellow",
    "golden": "yellow",
    "crimson": "red",
    "scarlet": "red",
    "lime": "green",
    "beige": "brown",
    "dark blue": "navy",
    "light blue": "blue",
    "sky blue": "blue",
    "dark green": "green",
    "light green": "green",
    "dark red": "red",
    "hot pink": "pink",
}
"""What people call the colours, and which of ours is meant."""

COLOUR_THINGS: dict[str, str] = {
    "red": "apple",
    "orange": "orange",
    "yellow": "banana",
    "green": "frog",
    "blue": "whale",
    "purple": "grapes",
    "pink": "flamingo",
    "brown": "bear",
    "gray": "elephant",
    "black": "spider",
    "white": "ghost",
    "teal": "dolphin",
    "navy": "whale",
}
"""What a colour word completes to while nothing else is typed yet ("red" on the way to "red apple")."""

_NATURAL = """
red: apple, heart, car, bird, crab, ladybug, tomato, strawberry, cherry, rose, balloon, fries, parrot,
  mushroom, watermelon, crown, guitar, rocket, book, fire engine, popcorn, candy, telephone, clock,
  scissors, motorcycle, ambulance, clown, drum, wine
orange: orange, cat, fox, tiger, pumpkin, carrot, butterfly, peach, fire, octopus, crab, basketball,
  volcano, helicopter, pencil, giraffe, trumpet, deer, kangaroo, squirrel, trophy, egg, teddy bear
yellow: banana, lemon, star, sun, chick, cheese, moon, corn, bee, smiling face, bus, flower, crown, heart
  eyes, beer, taxi, bell, lock, key, light bulb, truck, hand, thumbs up, pear, trophy, church, trumpet,
  candle, giraffe, popcorn, candy
green: frog, turtle, snake, dinosaur, dragon, tree, cactus, broccoli, alien, avocado, earth, crocodile, palm
  tree, christmas tree, tent, shirt, pear, tractor
blue: whale, dolphin, fish, diamond, snowflake, earth, soccer ball, wave, water drop, anchor, dress,
  jellyfish, computer, glasses
purple: grapes, umbrella, spider, unicorn, devil, hospital
pink: flamingo, pig, cupcake, unicorn, bicycle, peach, tulip
brown: dog, bear, horse, owl, monkey, hedgehog, snail, cookie, donut, poop, lion, coffee, eagle, bat,
  squirrel, chocolate, violin, chair, hammer, deer, teddy bear, mountain, kangaroo, money, egg
gray: elephant, koala, shark, mouse, rabbit, robot, castle, wolf, gorilla, shoe, television, ufo, satellite,
  microphone, headphones, ring, police car, sheep, zebra, hospital
black: panda, penguin, spider, piano, hat, bomb, camera, zebra, volcano, police car
white: ghost, skull, cloud, snowman, chicken, panda, cow, soccer ball, unicorn, rabbit, sheep, milk,
  envelope, eyes, astronaut, piano, zebra, drum
teal: tractor
navy: bomb, camera, hat
"""

NATURAL: dict[str, tuple[str, ...]] = _read(_NATURAL)
"""Things whose art has the colour already: there the word asks for no recolouring ("red apple")."""

NAMES: tuple[str, ...] = tuple(concept.name for concept in CONCEPTS)
INDEX: dict[str, int] = {name: i for i, name in enumerate(NAMES)}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
