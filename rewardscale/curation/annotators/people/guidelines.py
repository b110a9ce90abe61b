"""What annotators are told by default: rules for every pair, and for its kind of task.

After the protocol of Skywork-Reward-V2 (arXiv 2507.01352, appendix D.2 of version 1), in our words.
"""

from rewardscale.data.ledger.schema import CATEGORIES, Attributes

GENERAL = (
    "Judge which response serves the person who asked better, by their last message and all that was said before.",
    "You may search and ask other tools, LLMs too, but the verdict is yours: never take over an LLM's choice unread.",
    "Length, confidence and polish are no merit in themselves; neither is the place left or right.",
    "Choose a tie where they are equally good, or equally bad.",
    "Where you cannot find out, skip: a skipped pair is not used.",
)

_FACTS = (
    "Check what can be checked: look up names, numbers, dates and quotations rather than trusting your memory.",
    "A false statement weighs more than a missing detail; an honest “not known” more than an invented answer.",
)
_REASONING = (
    "Find the right result first, on your own or with a tool, then look which response reaches it.",
    "A right result with a sound way beats a right result by luck; a small slip beats a wrong method.",
)
_CODE = (
    "Run the code, or have it run, with an ordinary input and an odd one; read it where it cannot be run.",
    "Working and asked for comes first, then clear and safe. Explanation does not mend code that fails.",
)
_WRITING = (
    "Every wish of the prompt counts: form, length, tone, point of view, what to keep and what to leave out.",
    "Then prefer what a careful reader would rather read: vivid, coherent, its own; not what is merely longer.",
)
_ADVICE = (
    "Prefer what this person could act upon, in their situation, with the risks named.",
    "Questions of health, law, money and safety ask for care: harm weighs more than convenience.",
)
_OTHER = (
    "Say to yourself what a good answer would be, before you read the responses; then compare with that.",
)

GROUPS: dict[str, tuple[str, ...]] = {
    "Information seeking": _FACTS,
    "Reasoning": _REASONING,
    "Math": _REASONING,
    "Data analysis": _REASONING,
    "Coding & Debugging": _CODE,
    "Editing": _WRITING,
    "Role playing": _WRITING,
    "Creative writing": _WRITING,
    "Brainstorming": _WRITING,
    "Planning": _ADVICE,
    "Advice seeking": _ADVICE,
    "Others": _OTHER,
}
assert set(GROUPS) == set(CATEGORIES)

_SUBJECTIVE = "Tastes differ here: judge as the person who asked would, not by your own taste."
_CONTROVERSIAL = (
    "People disagree on this matter: fairness to the views there are counts, agreement with yours does not."
)


def rules(attributes: Attributes | None) -> list[str]:
    """The rules for a pair of these attributes, the general ones left out."""
    if attributes is None:
        return list(_OTHER)
    out = list(GROUPS[attributes.category])
    if attributes.objectivity == "subjective":
        out.append(_SUBJECTIVE)
    if attributes.controversiality == "high":
        out.append(_CONTROVERSIAL)
    return out
