"""Writes harbour.txt: days of a made-up harbour, for tests that need real-looking text on any machine.

There is structure of several lengths to learn: spelling, grammar, quotation marks that close, weekdays in order, ships
that keep their captain, home and cargo, a tide that comes 50 minutes later each day, and sums that are right.

Run from anywhere: python make_corpus.py. The same bytes every time.
"""

import pathlib
import random

DAYS = 220
SEED = 1848

# ship: captain, home port, cargo, the cargo's measure
SHIPS = {
    "Marigold": ("Ines Varga", "Sollerby", "salt", "barrels"),
    "Patient Heron": ("Tobias Crane", "Greywick", "timber", "loads"),
    "Northern Lantern": ("Aud Sigmund", "Tarn Island", "lamp oil", "casks"),
    "Copper Kettle": ("Jonah Pell", "Minehead Reach", "copper", "ingots"),
    "Second Thought": ("Maud Ferris", "Ostrand", "paper", "bales"),
    "Widow's Almanac": ("Elias Thorne", "Quarrel Point", "slate", "crates"),
    "Bright Penny": ("Rosa Lindqvist", "Anselm", "oranges", "boxes"),
    "Old Argument": ("Barnaby Holt", "Skerry Sound", "herring", "barrels"),
    "Quiet Drum": ("Nadia Okoro", "Port Lamont", "wool", "bales"),
    "Seven Sisters": ("Piet Vanderhaag", "Delving", "cheese", "wheels"),
    "Glass Thistle": ("Hanne Brodie", "Kirkhaven", "window glass", "crates"),
    "Lucky Tuesday": ("Samuel Ogden", "Fallow Bay", "potatoes", "sacks"),
}
PEOPLE = {
    "Agnes": ("the harbour master", "she"), "Colm": ("the lighthouse keeper", "he"), "Dorothea": ("the pilot", "she"),
    "Edwin": ("the rope maker", "he"), "Freya": ("the customs clerk", "she"), "Gregor": ("the crane man", "he"),
    "Hester": ("the baker", "she"), "Ivo": ("the carpenter", "he"), "Judith": ("the schoolteacher", "she"),
    "Karel": ("the net mender", "he"), "Lotte": ("the ferry woman", "she"), "Marcus": ("the innkeeper", "he"),
}
WEEKDAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
WINDS = ["north", "north-east", "east", "south-east", "south", "south-west", "west", "north-west"]
STRENGTHS = ["no more than a breath", "light", "steady", "fresh", "strong", "close to a gale"]
SKIES = [
    "clear", "grey from edge to edge", "full of small clouds", "white with haze", "dark over the headland",
    "the colour of pewter", "washed clean", "low enough to touch the masts"]
SOUNDS = ["gulls", "bell", "rigging", "pump", "smithy", "ferry horn", "church clock", "chain on the slipway"]
PLACES = [
    "the east quay", "the west quay", "the fish market", "the customs house", "the rope walk", "the slipway",
    "the lighthouse stairs", "the inn", "the bakery door", "the old crane", "the breakwater", "the sail loft",
    "the tar shed", "the ferry steps"]
ADJECTIVES = [
    "broken", "green", "heavy", "borrowed", "rusty", "wooden", "narrow", "forgotten", "painted", "crooked", "expensive",
    "leaking", "striped", "foreign", "polished", "salted", "square", "useless", "valuable", "yellow", "damp", "brittle",
    "hollow", "tarred", "second-hand", "tall", "dented", "sealed", "half-finished", "faded"]
NOUNS = [
    "coil of rope", "box of nails", "lantern", "letter", "compass", "chart", "basket", "kettle", "anchor chain",
    "child's shoe", "cage", "sack of flour", "bottle", "pair of scales", "whistle", "rudder pin", "pot of varnish",
    "ladder", "book of tides", "barometer", "bucket", "fiddle", "clock", "mirror", "net", "trunk", "umbrella", "stove",
    "parcel", "flag", "mast", "hammer", "blanket", "telescope", "wheelbarrow", "door hinge", "tin of biscuits",
    "pulley", "saddle", "figurehead", "birdcage", "cupboard", "violin case", "bell", "sealskin coat"]
REPAIRS = [
    "mended", "cleaned", "painted", "weighed", "counted", "carried off", "put back", "drew a picture of", "paid for",
    "hid"]
MOODS = [
    "slowly", "at once", "without a word", "twice", "before breakfast", "in the rain", "by lamplight",
    "with great care", "badly", "in a hurry"]
FEELINGS = [
    "tired", "pleased", "doubtful", "hungry", "patient", "cold to the bone", "proud", "curious", "cross", "calm"]
HABITS = [
    "counts the masts each morning", "never trusts a west wind", "keeps every receipt", "whistles out of tune",
    "knows the depth of every berth", "writes with the left hand", "drinks tea without sugar",
    "sleeps through any storm", "cannot swim", "collects stones with holes"]
SAYINGS = [
    "A rope is only as long as its worst knot", "The tide does not read letters",
    "Count the boats first and the fish after", "Nobody drowns on the quay", "A wet map is still a map",
    "Paint covers rust and cures nothing", "The slow boat sees the coast", "Ask the depth before the price",
    "A borrowed anchor holds like any other", "Fog is only weather that forgot to move"]
QUESTIONS = [
    "Who moved {thing}", "Is the {ship} in yet", "What do we owe for {count} {measure} of {cargo}",
    "Did you hear the {sound}", "When does the water turn", "Why is {other} at {place}",
    "How many {measure} can {place} hold", "Has anyone seen {captain}"]
ANSWERS = [
    "{person} did, I think", "Not before {weekday}", "More than we have", "Ask {person}, not me", "Look by {place}",
    "As many as {captain} can carry", "I was at {place} and saw nothing", "{count} at the most",
    "It was the {sound} that woke me", "Only {person} would know", "Under {thing}, as always"]
WORDS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"]


class Writer:
    def __init__(self):
        self.source = random.Random(SEED)

    def below(self, count):
        return int(self.source.random() * count)  # random() is the one stream Python promises never to change

    def pick(self, choices):
        return choices[self.below(len(choices))]

    def thing(self):
        adjective = self.pick(ADJECTIVES)
        return f"{'an' if adjective[0] in 'aeiou' and adjective != 'useless' else 'a'} {adjective} {self.pick(NOUNS)}"

    def scene(self):
        """Values for the slots of one sentence, so that a ship, its captain and its cargo belong together."""
        ship = self.pick(list(SHIPS))
        captain, home, cargo, measure = SHIPS[ship]
        person = self.pick(list(PEOPLE))
        other = self.pick([name for name in PEOPLE if name != person])
        return {
            "ship": ship, "captain": captain, "home": home, "cargo": cargo, "measure": measure,
            "person": person, "role": PEOPLE[person][0], "them": PEOPLE[person][1], "other": other,
            "place": self.pick(PLACES), "elsewhere": self.pick(PLACES), "thing": self.thing(),
            "repair": self.pick(REPAIRS), "mood": self.pick(MOODS), "feeling": self.pick(FEELINGS),
            "habit": self.pick(HABITS), "sound": self.pick(SOUNDS), "saying": self.pick(SAYINGS),
            "count": str(2 + self.below(97)), "weekday": self.pick(WEEKDAYS)}

    def heading(self, day):
        minutes = (6 * 60 + 10 + 50 * day) % (12 * 60)
        wind, strength = self.pick(WINDS), self.pick(STRENGTHS)
        return (
            f"Day {day + 1}, {WEEKDAYS[day % 7]}. High water at {minutes // 60}:{minutes % 60:02}. "
            f"Wind from the {wind}, {strength}; the sky {self.pick(SKIES)}.")

    def arrival(self):
        s = self.scene()
        first, second = 2 + self.below(60), 2 + self.below(39)
        ways = [
            "The {ship} came in from {home} under {captain}, with {first} {measure} of {cargo} below and {second} "
            "more on deck, {sum} in all.",
            "{captain} brought the {ship} to {place}. The hold held {first} {measure} of {cargo} and the deck "
            "{second}, so Freya wrote down {sum}.",
            "From {home}, the {ship}: {first} {measure} of {cargo} declared, {second} found behind a sail, {sum} "
            "taxed.",
            "At {place} lay the {ship} of {home}. {person} counted {first} {measure} of {cargo}, then {second}, and "
            "said that made {sum}.",
        ]
        return self.pick(ways).format(**s, first=first, second=second, sum=first + second)

    def departure(self):
        s = self.scene()
        start = 30 + self.below(60)
        sold = 1 + self.below(start - 1)
        ways = [
            "Of {start} {measure} of {cargo}, {captain} sold {sold}, and the {ship} sailed for {home} with {rest}.",
            "The {ship} left for {home} on the ebb. {captain} had landed {sold} of {start} {measure} of {cargo}; "
            "{rest} stayed aboard.",
            "{start} {measure} of {cargo} were in the shed, {captain} took {sold}, and {person} locked the door on "
            "{rest}.",
        ]
        return self.pick(ways).format(**s, start=start, sold=sold, rest=start - sold)

    def small_sum(self):
        a, b = 1 + self.below(10), 1 + self.below(10)
        s = self.scene()
        ways = [
            "{a} boats and {b} boats are {sum} boats.",
            "Judith asked the children for {a} and {b}, and they shouted {sum}.",
            "{A} knocks, then {b} more: {sum} knocks, and {person} opened.",
            "With {a} lamps on {place} and {b} on the breakwater, Colm lit {sum}.",
        ]
        line = self.pick(ways).format(**s, a=WORDS[a], A=WORDS[a].capitalize(), b=WORDS[b], sum=WORDS[a + b])
        return line[0].upper() + line[1:]

    def event(self):
        ways = [
            "{person} {repair} {thing} {mood}.",
            "{person}, {role}, {habit}.",
            "Near {place}, {other} found {thing} and took it to {person}.",
            "{person} walked from {place} to {elsewhere} and was {feeling} when {them} arrived.",
            "The {sound} could be heard as far as {elsewhere}.",
            "{captain} of the {ship} asked {person} for {thing}, which {other} had {repair} on {weekday}.",
            "By evening {person} was {feeling}, and so was {other}.",
            "There was {thing} at {place} again, and nobody would say whose.",
            "{captain} says that {home} is smaller than our harbour but has better {cargo}.",
            "When the {sound} stopped, {person} looked up from {thing} and listened.",
            "Since {weekday} {person} has waited at {place} for the {ship}.",
            "If the {ship} is late, everyone at {place} grows {feeling}, except {person}, who {habit}.",
            "{other} swapped {thing} for {count} {measure} of {cargo} and told {person} about it {mood}.",
            "It rained on {place} until {weekday}, yet {captain} painted the {ship} from bow to stern.",
            "{person} dreamt of {home}, where every house has {thing} above the door.",
            "Under the stairs of {place} stands {thing}; {role} will not part with it.",
            "Last {weekday} {other} lost {thing} between {place} and {elsewhere}, and {person} is still laughing.",
            "Nobody unloads {cargo} faster than the crew of the {ship}, unless {captain} is {feeling}.",
            "Behind {elsewhere} the children built a {ship} of their own from {thing} and half a barrel.",
            "{captain} paid {count} shillings for {thing}, which {other} called a bargain and {person} a scandal.",
            "For the third time this month {thing} was drying on the wall of {place}.",
            "{person} taught {other} to splice, to scull, and to say {cargo} in the language of {home}.",
        ]
        scene = self.scene()
        if scene["repair"] in ("drew a picture of", "hid", "put back"):
            ways = [way for way in ways if "had {repair}" not in way]
        line = self.pick(ways).format(**scene)
        return line[0].upper() + line[1:]

    def dialogue(self):
        s, t = self.scene(), self.scene()
        question, answer = self.pick(QUESTIONS).format(**s), self.pick(ANSWERS).format(**t)
        verb = self.pick(["asked", "called", "wanted to know", "said"])
        speaker = self.pick([name for name in PEOPLE if name not in (s["person"], s["other"])])
        lines = [f'"{question}?" {verb} {s["person"]}.', f'"{answer}," said {speaker}.']
        if self.below(3) == 0:
            lines.append(f'"{t["saying"]}," said {s["captain"]}, who was {t["feeling"]}.')
        return "\n".join(lines)

    def ledger(self):
        """A table whose last line is the sum of the others."""
        names = list(SHIPS)
        start, rows = self.below(len(names)), 3 + self.below(3)
        lines, total = ["Harbour dues:"], 0
        for index in range(rows):
            ship = names[(start + index) % len(names)]
            due = 5 + self.below(90)
            total += due
            lines.append(f"  {ship:<18}{due:>4}")
        return "\n".join(lines + [f"  {'Total':<18}{total:>4}"])

    def day(self, number):
        parts = [self.heading(number)]
        prose = [self.arrival()] + [self.event() for _ in range(2 + self.below(3))]
        if self.below(2) == 0:
            prose.append(self.departure())
        if self.below(3) == 0:
            prose.append(self.small_sum())
        parts.append(" ".join(prose))
        if self.below(4) != 0:
            parts.append(self.dialogue())
        if number % 7 == 6:
            parts.append(self.ledger())
        return "\n\n".join(parts)


def main():
    writer = Writer()
    text = "\n\n".join(writer.day(number) for number in range(DAYS)) + "\n"
    (pathlib.Path(__file__).resolve().parent / "harbour.txt").write_text(text, encoding="ascii", newline="\n")


main()
