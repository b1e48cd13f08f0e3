"""Scene graphs: objects with attributes and relations, grown from nothing to the whole.

Read are Visual Genome's layout (`object_id`, `names` or `name`, `attributes`; `relationships` with
`subject_id`, `predicate`, `object_id`) and ours (`name`, `attributes`; `relations` with `subject`,
`relation`, `object`). An object that is placed by another comes after it.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple


class Graph(NamedTuple):
    """Objects in words by key, and relations (subject, words, object)."""

    objects: dict[str, str]
    relations: list[tuple[str, str, str]]


def checked(graph: Any) -> Graph:
    """The graph. Raises ValueError: no objects, a relation to none, or relations in a circle."""
    if not isinstance(graph, Mapping) or not isinstance(graph.get("objects"), list):
        raise ValueError("a scene graph needs a list 'objects'")
    objects = {}
    for number, each in enumerate(graph["objects"]):
        if not isinstance(each, Mapping):
            raise ValueError(f"object {number + 1} of the scene graph is no object")
        names = each.get("names") or [each.get("name")]
        name = names[0] if isinstance(names, list) else names
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"object {number + 1} of the scene graph has no name")
        key = str(each.get("object_id", each.get("id", name)))
        if key in objects:
            raise ValueError(f"the scene graph has object '{key}' twice; number them")
        attributes = [str(a) for a in each.get("attributes") or []]
        objects[key] = " ".join([*attributes, name.strip()])
    if not objects:
        raise ValueError("the scene graph has no objects")
    relations = []
    for each in graph.get("relationships") or graph.get("relations") or []:
        ends = [str(each.get(f"{end}_id", each.get(end))) for end in ("subject", "object")]
        for end in ends:
            if end not in objects:
                raise ValueError(f"the scene graph relates '{end}', which is none of its objects")
        relations.append((ends[0], str(each.get("predicate", each.get("relation"))), ends[1]))
    graph = Graph(objects, relations)
    order(graph)
    return graph


def order(graph: Graph) -> list[str]:
    """Keys, each after all that place it. Raises ValueError that names a circle."""
    done: list[str] = []
    waiting = list(graph.objects)
    needs = {key: {o for s, _, o in graph.relations if s == key} - {key} for key in waiting}
    while waiting:
        free = [key for key in waiting if needs[key] <= set(done)]
        if not free:
            circle = ", ".join(f"'{key}'" for key in waiting[:6])
            raise ValueError(f"the scene graph's relations go in a circle through {circle}")
        done.append(free[0])
        waiting.remove(free[0])
    return done


def growing(graph: Graph, most: int) -> list[dict[str, str]]:
    """States of a graph that grows, at most so many: {new, scene} in words."""
    keys = order(graph)
    size = math.ceil(len(keys) / most)
    states = []
    for end in range(size, len(keys) + size, size):
        there = keys[:end]
        states.append(
            {
                "new": _words(graph, keys[end - size : end], there),
                "scene": _words(graph, there, there),
            }
        )
    return states


def _words(graph: Graph, keys: list[str], there: list[str]) -> str:
    told = [graph.objects[key] for key in keys]
    told += [
        f"{graph.objects[s]} {words} {graph.objects[o]}"
        for s, words, o in graph.relations
        if s in keys and o in there
    ]
    return "; ".join(told)
