"""Find an English word in a sentence, inflected or not."""

from collections.abc import Sequence

_IRREGULAR = """
arise arose arisen | awake awoke awoken | be am is are was were been | bear bore borne born | beat beaten | become
became | begin began begun | behold beheld | bend bent | bid bade bidden | bind bound | bite bit bitten | bleed bled |
blow blew blown | break broke broken | breed bred | bring brought | build built | burn burnt | buy bought | catch
caught | choose chose chosen | cling clung | come came | creep crept | deal dealt | dig dug | do does did done | draw
drew drawn | dream dreamt | drink drank drunk | drive drove driven | dwell dwelt | eat ate eaten | fall fell fallen |
feed fed | feel felt | fight fought | find found | flee fled | fling flung | fly flew flown | forbid forbade forbidden
| forget forgot forgotten | forgive forgave forgiven | forsake forsook forsaken | freeze froze frozen | get got gotten
| give gave given | go goes went gone | grind ground | grow grew grown | hang hung | have has had | hear heard | hide
hid hidden | hold held | keep kept | kneel knelt | know knew known | lay laid | lead led | lean leant | leap leapt |
learn learnt | leave left | lend lent | lie lay lain | light lit | lose lost | make made | mean meant | meet met |
mistake mistook mistaken | overcome overcame | overtake overtook overtaken | pay paid | plead pled | prove proven |
rend rent | ride rode ridden | ring rang rung | rise rose risen | run ran | saw sawn | say said | see saw seen | seek
sought | sell sold | send sent | sew sewn | shake shook shaken | shear shorn | shine shone | shoe shod | shoot shot |
show shown | shrink shrank shrunk | sing sang sung | sink sank sunk | sit sat | slay slew slain | sleep slept | slide
slid | sling slung | smell smelt | sow sown | speak spoke spoken | speed sped | spell spelt | spend spent | spill
spilt | spin spun | spit spat | spoil spoilt | spring sprang sprung | stand stood | steal stole stolen | stick stuck |
sting stung | stink stank stunk | stride strode stridden | strike struck stricken | string strung | strive strove
striven | swear swore sworn | sweep swept | swell swollen | swim swam swum | swing swung | take took taken | teach
taught | tear tore torn | tell told | think thought | throw threw thrown | tread trod trodden | undergo underwent
undergone | understand understood | undertake undertook undertaken | wake woke woken | wear wore worn | weave wove
woven | weep wept | win won | wind wound | withdraw withdrew withdrawn | withhold withheld | withstand withstood |
wring wrung | write wrote written | child children | foot feet | goose geese | louse lice | mouse mice | ox oxen |
tooth teeth | die dice | person people | good better best | bad worse worst | far farther farthest further furthest
"""
_FORMS = {word: frozenset(forms) for word, *forms in map(str.split, _IRREGULAR.split("|"))}
_SUFFIXES = ("s", "es", "ed", "ing", "er", "est")
_ENDINGS = (
    ("man", "men"), ("fe", "ves"), ("f", "ves"), ("us", "i"), ("is", "es"), ("um", "a"), ("on", "a"), ("ex", "ices"),
    ("ix", "ices"),
)  # fmt: skip


def inflections(word: str) -> frozenset[str]:
    """The forms of a lower-case word: irregular ones, those with every regular suffix, and plurals of Latin and Greek.
    A superset, with forms that do not exist.

    >>> {"study", "studies", "studied", "studying"} <= inflections("study")
    True
    """
    found = {word} | {word + suffix for suffix in _SUFFIXES} | _FORMS.get(word, frozenset())
    found |= {word.removesuffix(end) + plural for end, plural in _ENDINGS if word.endswith(end)}
    if word.endswith("e"):
        found |= {f"{word}d", f"{word}r", f"{word}st", f"{word[:-1]}ing"}
    if word.endswith("ie"):
        found.add(f"{word[:-2]}ying")
    if word.endswith("y"):
        found |= {f"{word[:-1]}i{suffix}" for suffix in ("es", "ed", "er", "est")}
    if word and word[-1] not in "aeiou":
        doubled = f"{word}k" if word.endswith("c") else word + word[-1]
        found |= {doubled + suffix for suffix in ("es", "ed", "ing", "er", "est")}
    return frozenset(found)


def find_word(word: str, sentence: Sequence[str]) -> int | None:
    """The number of the first word of a sentence that is `word`, or else the first that is one of its inflections,
    whatever their case; None if there is none."""
    lower = [each.lower() for each in sentence]
    if word.lower() in lower:
        return lower.index(word.lower())
    forms = inflections(word.lower())
    return next((number for number, each in enumerate(lower) if each in forms), None)
