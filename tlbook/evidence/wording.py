"""Word an effect: say in a sentence what a difference shows, by its sign, size and margin.

A chapter records the words, and its prose shows them. So a sentence keeps its verb when the
measured number changes::

    record(transfer=in_words(gain))

    The encoder {glue:text}`transfer`.

The module does not import the class of effects. An effect is whatever has ``value``, ``low`` and
``high``, in shares of one, as :class:`tlbook.evidence.effects.Effect` has them.
"""

from typing import Protocol

from tlbook import checks

#: A difference of at most this share does not matter, unless a chapter says otherwise: 2 points.
MARGIN = 0.02


class Measured(Protocol):
    """Describe a difference with the limits of its interval, in shares of one.

    Attributes
    ----------
    value : float
        The difference.
    low : float
        Lower end of the interval.
    high : float
        Upper end of the interval.
    """

    value: float
    low: float
    high: float


def verdict(effect: Measured, margin: float = MARGIN) -> str:
    """Say what an effect shows of a claim that expects it to be positive.

    Parameters
    ----------
    effect : Effect
        A difference with its interval, in shares of one. If it has a ``level``, that is at least
        0.9. For a claim that expects a negative effect, give ``-effect``.
    margin : float, default 0.02
        The margin of practical equivalence, in shares of one. Differences up to it do not matter.
        With 0 every difference matters.

    Returns
    -------
    {"negligible", "supported", "refuted", "undecided"}
        "negligible" if the 90 percent interval lies within the margin, its ends included: two
        one-sided tests at 5 percent (Schuirmann, 1987, doi 10.1007/BF01068419). Else "supported" or
        "refuted" if the effect's own interval lies above or below zero. Else "undecided", as is
        whatever has a reason in ``unreliable``; :func:`detectable` says what could have been seen.

    Raises
    ------
    ValueError
        If the effect is not finite, its limits are in the wrong order, its interval lies on the
        other side of zero than its value, its level is below 0.9, or the margin is negative.
    """
    value, low, high = (checks.number(n, getattr(effect, n)) for n in ("value", "low", "high"))
    margin = checks.number("margin", margin, least=0)
    if low > high or (low > 0 and value <= 0) or (high < 0 and value >= 0):
        raise ValueError(
            f"{value} with the interval {low} to {high} is no effect: check its limits"
        )
    checks.number("level", getattr(effect, "level", 0.95), least=0.9, below=1)
    if getattr(effect, "unreliable", ""):
        return "undecided"
    # Without components, an effect's own interval is asked: it is wider, so "negligible" is said
    # too rarely, never too often. Scaling it would take the normal shape for granted.
    inner = effect.at(0.9) if getattr(effect, "components", None) else effect
    if -margin <= inner.low and inner.high <= margin:
        return "negligible"
    if low > 0:
        return "supported"
    return "refuted" if high < 0 else "undecided"


def in_words(
    effect: Measured,
    margin: float = MARGIN,
    *,
    unit: str = "point",
    digits: int = 1,
    plural: bool = False,
    verbs: tuple[str, str] = ("gain", "lose"),
) -> str:
    """Word an effect so that it follows the subject of a sentence.

    Parameters
    ----------
    effect : Effect
        A difference with its interval, in shares of one.
    margin : float, default 0.02
        The margin of practical equivalence, in shares of one; see :func:`verdict`.
    unit : str, default "point"
        What a hundredth is called, in the singular: "point" or "percent".
    digits : int, default 1
        How many decimals are shown at most.
    plural : bool, default False
        Whether the subject is plural: "gain" in place of "gains".
    verbs : tuple of str, default ("gain", "lose")
        What the subject does where the effect is positive and where it is negative.

    Returns
    -------
    str
        "gains 10.7 points", "loses 3.2 points", "makes no difference that matters (within 2
        points)", or "makes no clear difference: anything from 4 points less to 6 more"; in place of
        the last, the reason if the effect is unreliable.

    Raises
    ------
    ValueError
        If :func:`verdict` refuses the effect or the margin.
    """
    outcome = verdict(effect, margin)
    s = "" if plural else "s"
    if outcome == "negligible":
        within = f" that matters (within {amount(margin, unit, digits)})" if margin else ""
        return f"make{s} no difference{within}"
    if outcome == "undecided":
        reason = getattr(effect, "unreliable", "") or span(effect, unit, digits)
        return f"make{s} no clear difference: {reason}"
    verb = verbs[outcome != "supported"]
    return f"{verb}{s} {amount(effect.value, unit, digits)}"


def detectable(
    effect: Measured, power: float = 0.8, *, unit: str = "point", digits: int = 1
) -> str:
    """Word how large an effect would have had to be to be found.

    Parameters
    ----------
    effect : Effect
        An effect with a method ``detectable``.
    power : float, default 0.8
        How often an effect of this size is found.
    unit : str, default "point"
        What a hundredth is called, in the singular: "point" or "percent".
    digits : int, default 1
        How many decimals are shown at most.

    Returns
    -------
    str
        "an effect of 4.4 points would be found in 80 percent of such experiments", or that there is
        no telling if the effect is unreliable.
    """
    if getattr(effect, "unreliable", ""):
        return f"no telling which effect would be found: {effect.unreliable}"
    size = amount(effect.detectable(power), unit, digits)
    return f"an effect of {size} would be found in {100 * power:.0f} percent of such experiments"


def amount(share: float, unit: str = "point", digits: int = 1) -> str:
    """Word the size of a share, without its sign.

    Parameters
    ----------
    share : float
        A share of one.
    unit : str, default "point"
        What a hundredth is called, in the singular: "point" or "percent".
    digits : int, default 1
        How many decimals are shown at most.

    Returns
    -------
    str
        "10.7 points", "1 point", or "less than 0.1 points" for what would round to zero.
    """
    hundredths = _rounded(abs(share), digits)
    if share and not hundredths:
        return f"less than {_named(10.0**-digits, unit, digits)}"
    return _named(hundredths, unit, digits)


def span(effect: Measured, unit: str = "point", digits: int = 1) -> str:
    """Word an interval by its ends.

    Parameters
    ----------
    effect : Effect
        A difference with its interval, in shares of one.
    unit : str, default "point"
        What a hundredth is called, in the singular: "point" or "percent".
    digits : int, default 1
        How many decimals are shown at most.

    Returns
    -------
    str
        "anything from 4 points less to 6 more", "anything from no difference to 6 points more", or
        "less than 0.1 points either way".
    """
    low, high = (_rounded(end, digits) for end in (effect.low, effect.high))
    if not low and not high:
        return f"less than {_named(10.0**-digits, unit, digits)} either way"
    ends, named = [], False
    for end in (low, high):
        # The unit stands once, with the first number
        size = _number(abs(end), digits) if named else _named(abs(end), unit, digits)
        ends.append(f"{size} {'more' if end > 0 else 'less'}" if end else "no difference")
        named = named or bool(end)
    return f"anything from {ends[0]} to {ends[1]}"


def _rounded(share: float, digits: int) -> float:
    return float(f"{100 * share:.{digits}f}")


def _number(hundredths: float, digits: int) -> str:
    text = f"{hundredths:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _named(hundredths: float, unit: str, digits: int) -> str:
    size = _number(hundredths, digits)
    return f"{size} {unit}" if size == "1" or unit == "percent" else f"{size} {unit}s"


def capitalized(text: str) -> str:
    """Return a text with its first letter as at the beginning of a sentence.

    Parameters
    ----------
    text : str
        The text.

    Returns
    -------
    str
        The same, but for the first letter.
    """
    return text[:1].upper() + text[1:]
