"""The edit that brings things nearest to a wish: what reflections ask for.

A function of wish and things alone, by trying: missing things are added, surplus ones removed,
wrong ones changed, misplaced ones moved, each where the judge's shares gain most; of equal gains
the first in reading order. One edit ahead is as far as it looks: where several things have to move
before anything is better (a whole row that stands too low), it goes round in circles, in one of a
hundred drafts that have nothing to do with the wish.
"""

from collections.abc import Iterator, Sequence

from unireason_jax.world.edits import NO_CHANGE, Edit
from unireason_jax.world.hard.judge import check
from unireason_jax.world.hard.things import SIDE, Thing, Things, arranged
from unireason_jax.world.hard.wishes import Group, Wish
from unireason_jax.world.scenes import cell_names


def suggest(wish: Wish, things: Things, side: int = SIDE) -> Edit:
    """The best edit of things for a resolved wish; `NO_CHANGE` where nothing is wrong."""
    if check(wish, things).passed:
        return NO_CHANGE
    tried = list(dict.fromkeys(_candidates(wish, things, side)))
    return max(tried, key=lambda edit: _worth(wish, edited(things, edit)))


def edited(things: Things, edit: Edit) -> Things:
    """Things after an edit; `to` of what is added or changed is the look behind it, in words."""
    by_cell = {thing.cell: thing for thing in things}
    if edit.op == "remove":
        del by_cell[edit.cell]
    elif edit.op == "move":
        by_cell[edit.to] = by_cell.pop(edit.cell)._replace(cell=edit.to)
    elif edit.op in ("add", "change"):
        back = tuple(edit.to.split()[:0:-1]) if edit.to else None
        behind = (back[0], back[1]) if back else None
        by_cell[edit.cell] = Thing(edit.shape, edit.color, edit.size, edit.cell, behind)
    return arranged(by_cell.values())


def _worth(wish: Wish, things: Things) -> float:
    """Sum of the shares, the number of things first: what is there can be moved later."""
    shares = check(wish, things).shares
    return 10 * (shares["count"] + shares["extra"]) + sum(shares.values())


def _candidates(wish: Wish, things: Things, side: int) -> Iterator[Edit]:
    taken = {thing.cell for thing in things}
    free = [cell for cell in cell_names(side) if cell not in taken]
    for group in wish.groups:
        own = [thing for thing in things if group.is_kin(thing)]
        surplus = len(own) > group.count
        for thing in own:
            if surplus:
                yield Edit("remove", thing.cell)
            if (thing.size, thing.behind) != (group.size, group.behind):
                yield _put("change", thing.cell, group)
        if len(own) < group.count:
            yield from (_put("add", cell, group) for cell in free)
    strangers = [t for t in things if not any(g.is_kin(t) for g in wish.groups)]
    lacking = [g for g in wish.groups if _count(g, things) < g.count]
    for thing in strangers:
        yield Edit("remove", thing.cell)
        yield from (_put("change", thing.cell, group) for group in lacking)
    if not strangers and not lacking:
        for thing in things:
            yield from (Edit("move", thing.cell, cell) for cell in free)


def _count(group: Group, things: Sequence[Thing]) -> int:
    return sum(group.is_kin(thing) for thing in things)


def _put(op: str, cell: str, group: Group) -> Edit:
    behind = "a " + " ".join(group.behind[::-1]) if group.behind else ""
    return Edit(op, cell, behind, group.shape, group.color, group.size)
