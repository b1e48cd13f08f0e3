"""Scene graphs: objects with attributes and relations, grown from nothing to the whole.

Read are Visual Genome's layout (`object_id`, `names` or `name`, `attributes`; `relationships` with
`subject_id`, `predicate`, `object_id`) and ours (`name`, `attributes`; `relations` with `subject`,
`relation`, `object`). An object that is placed by another comes after it.
"""

import heapq
import math
from collections.abc import Iterable, Mapping
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
        attributes = each.get("attributes") or []
        if not isinstance(attributes, list):
            raise ValueError(f"'attributes' of object '{key}' are no list")
        attributes = [str(attribute) for attribute in attributes]
        objects[key] = " ".join([*attributes, name.strip()])
    if not objects:
        raise ValueError("the scene graph has no objects")
    relations = []
    given = graph.get("relationships") or graph.get("relations") or []
    if not isinstance(given, list) or not all(isinstance(each, Mapping) for each in given):
        raise ValueError("the scene graph's relations are no list of objects")
    for each in given:
        ends = [str(each.get(f"{end}_id", each.get(end))) for end in ("subject", "object")]
        for end in ends:
            if end not in objects:
                raise ValueError(f"the scene graph relates '{end}', which is none of its objects")
        if ends[0] == ends[1]:
            raise ValueError(f"the scene graph relates '{ends[0]}' to itself")
        words = each.get("predicate", each.get("relation"))
        if not isinstance(words, str) or not words.strip():
            raise ValueError(f"the relation of '{ends[0]}' to '{ends[1]}' has no words")
        relations.append((ends[0], words, ends[1]))
    graph = Graph(objects, relations)
    order(graph)
    return graph


def order(graph: Graph) -> list[str]:
    """Keys, each after all that place it. Raises ValueError that names a circle."""
    places = {key: place for place, key in enumerate(graph.objects)}
    needs: dict[str, set[str]] = {key: set() for key in places}
    placed: dict[str, list[str]] = {key: [] for key in places}
    for subject, _, other in graph.relations:
        needs[subject].add(other)
        placed[other].append(subject)
    free = [place for key, place in places.items() if not needs[key]]  # a heap, as it is sorted
    keys, done = list(places), []
    while free:
        done.append(keys[heapq.heappop(free)])
        for key in placed[done[-1]]:
            if done[-1] in needs[key]:
                needs[key].remove(done[-1])
                if not needs[key]:
                    heapq.heappush(free, places[key])
    if len(done) < len(keys):
        circle = ", ".join(f"'{key}'" for key in _circle(needs)[:6])
        raise ValueError(f"the scene graph's relations go in a circle through {circle}")
    return done


def _circle(needs: Mapping[str, set[str]]) -> list[str]:
    """Keys that each need the next one, and the last one the first, in the order of `needs`."""
    key, path = next(key for key, others in needs.items() if others), {}
    while key not in path:
        path[key] = len(path)
        key = min(other for other in needs[key] if needs[other])
    inside = {name for name, place in path.items() if place >= path[key]}
    return [name for name in needs if name in inside]


def growing(graph: Graph, most: int) -> list[dict[str, str]]:
    """States of a graph that grows, at most so many: {new, scene} in words."""
    keys = order(graph)
    size = math.ceil(len(keys) / most)
    states = []
    for end in range(size, len(keys) + size, size):
        there = keys[:end]
        new = keys[end - size : end]
        states.append({"new": _words(graph, new, there), "scene": _words(graph, there, there)})
    return states


def _words(graph: Graph, keys: Iterable[str], there: Iterable[str]) -> str:
    told = [graph.objects[key] for key in keys]
    keys, there = set(keys), set(there)
    told += [
        f"{graph.objects[s]} {words} {graph.objects[o]}"
        for s, words, o in graph.relations
        if s in keys and o in there
    ]
    return "; ".join(told)
