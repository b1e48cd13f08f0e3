"""Files of requests as people write them: told apart, and refused by name, item by item."""

import codecs
import json
import re

import pytest

from unireason_jax.inference.requests import Asked, check_names, read_file

A, B = "a red circle", "a blue square"


def read(tmp_path, content, name="requests.txt"):
    """(requests as (id, prompt), reasons by line) of a file."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    asked, refused = read_file(path)
    assert all(isinstance(one, Asked) for one in asked)
    assert not any("\n" in one.told for one in refused)
    assert all(one.told == f"{one.where}: {one.reason}" for one in refused)
    lines = {int(one.where.rpartition(":")[2]): one.reason for one in refused}
    return [(one.name, one.prompt) for one in asked], lines


def fault(tmp_path, content, name="requests.jsonl"):
    """Why the only item of a file is refused."""
    asked, refused = read(tmp_path, content, name)
    assert not asked and len(refused) == 1
    return next(iter(refused.values()))


@pytest.mark.parametrize(
    "content",
    [
        f"{A}\n{B}\n",
        f"{A}\r\n\r\n{B}\r\n",
        codecs.BOM_UTF8 + f"{A}\n{B}".encode(),
        f"{A}\n{B}".encode("utf-16"),
        codecs.BOM_UTF16_BE + f'{{"prompt": "{A}"}}\n{{"prompt": "{B}"}}'.encode("utf-16-be"),
        f"{A}\n{B}".encode("utf-32"),
        f'{{"prompt": "{A}"}}\n{{"prompt": "{B}"}}\n',
        f'{{"prompt": "{A}"}}\n\n{B}\n',
        f'{{"prompt":\n "{A}"}}\n{{\n"prompt": "{B}"\n}}\n',
        f'[{{"prompt": "{A}"}}, {{"prompt": "{B}"}}]',
        f'[\n  {{"prompt": "{A}"}},\n  {{"prompt": "{B}"}}\n]\n',
        f'["{A}", "{B}"]',
        f"prompt,image\r\n{A},\r\n{B},\r\n",
        f"id\tprompt\n\t{A}\n\t{B}\n",
        f'Prompt;Seed\n"{A}";\n{B};3\n',
    ],
)
def test_two_requests_are_the_same_in_every_form(tmp_path, content):
    assert read(tmp_path, content) == ([(A, A), (B, B)], {})


def test_ids_images_and_seeds(tmp_path):
    rows = [
        {"prompt": A, "id": 7, "image": ["a.png", "sub/b.png"], "seed": 2**64 - 1},
        {"prompt": B, "id": "图一", "image": "/c.png", "seed": 0},
    ]
    for name, content in (
        ("r.json", json.dumps(rows)),
        ("r.jsonl", "\n".join(map(json.dumps, rows))),
    ):
        (tmp_path / name).write_text(content)
        (one, two), refused = read_file(tmp_path / name)
        assert not refused and (one.name, two.name) == ("7", "图一")
        assert one.image == [tmp_path / "a.png", tmp_path / "sub" / "b.png"]
        assert str(two.image) == "/c.png" and (one.seed, two.seed) == (2**64 - 1, 0)
    (tmp_path / "r.csv").write_text(f"id,prompt,image,seed\n007,{A},a.png,42\n")
    (one,), _ = read_file(tmp_path / "r.csv")
    assert one == Asked("007", A, tmp_path / "a.png", f"{tmp_path / 'r.csv'}:2", 42)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ('"id": null', "field 'id' is null; give a text or a whole number, or leave it out"),
        ('"id": true', "field 'id' is true"),
        ('"id": ""', "field 'id' is empty"),
        ('"id": 1.5', "field 'id' is a number"),
        ('"id": ["x"]', "field 'id' is a list"),
        ('"id": NaN', "NaN is no number"),
        ('"id": "\\ud800"', r"field 'id' holds \\ud800, half of a character"),
        ('"seed": -1', "seed must be >= 0, not -1"),
        ('"seed": 1.0', "seed must be a whole number, not 1.0"),
        ('"seed": true', "seed must be a whole number, not True"),
        ('"seed": "x"', "seed must be a whole number, not 'x'"),
        ('"seed": null', "seed must be a whole number, not None"),
        ('"seed": 18446744073709551616', "seed must be <= 18446744073709551615"),
        (f'"seed": {"9" * 5000}', "a number of 5000 digits"),
        ('"image": []', "field 'image' is an empty list"),
        ('"image": ""', "field 'image' is empty"),
        ('"image": null', "field 'image' is not a path but null"),
        ('"image": ["a.png", 3]', "field 'image' is not a path but a number"),
        ('"image": "a\\u0000.png"', r"field 'image' holds the control character \\x00"),
        ('"promt": "x"', "unknown field 'promt', did you mean 'prompt'"),
        ('"Image": "x"', "unknown field 'Image', did you mean 'image'"),
        ('"images": ["x"]', "unknown field 'images', did you mean 'image'"),
        ('"num_timesteps": 3', "unknown field 'num_timesteps', which is said for .* --timesteps"),
        ('"cfg_scale": 3', "unknown field 'cfg_scale', which is said for .* --guidance"),
        ('"height": 512', "unknown field 'height', which is said for .* --size"),
        ('"negative_prompt": "x"', "'negative_prompt' is not supported"),
        ('"zzzz": 1', "unknown field 'zzzz'. Known are prompt, id, image, seed"),
        ('"zzzz": 1, "steps": 3', "unknown field 'zzzz'; unknown field 'steps', which is said"),
        ('"prompt": "again"', "field 'prompt' is there twice"),
        ('"a\\nb": 1', r"unknown field 'a\\nb'"),
        (f'"{"x" * 5000}": 1', "unknown field 'x{40}[.]{3}'"),
        ('"\\ud800": 1, "\\ud800": 2', r"field '\\ud800' is there twice"),
    ],
)
def test_fields_are_refused_by_name(tmp_path, fields, message):
    asked, refused = read(tmp_path, f'{{"prompt": "{A}", {fields}}}\n{{"prompt": "{B}"}}\n')
    assert asked == [(B, B)]
    assert re.search(message, refused[1]), refused[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a red circle"}', "unknown field 'text', did you mean 'prompt'"),
        ('{"id": "x"}', "field 'prompt' is missing"),
        ('{"prompt": 3}', "field 'prompt' is not a text but a number"),
        ('{"prompt": null}', "field 'prompt' is not a text but null"),
        ('{"prompt": "\\udc00x"}', "half of a character"),
        ('{"prompt": "a\\u0007"}', "control character"),
        ("{oops", "not JSON"),
        ("[1,2", "not JSON"),
        ("null", "not null"),
        ("[" * 100_000, "brackets within brackets"),
        ('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}", "brackets within brackets"),
        ('"a red circle"', "in quotation marks"),
        ("'a red circle'", "in quotation marks"),
        ("“a red circle”", "in quotation marks"),
        (b"a \xff circle", r"not UTF-8 \(byte 0xff\)"),
        (b'{"prompt": "\xe9"}', r"not UTF-8 \(byte 0xe9\)"),
    ],
)
def test_a_damaged_line_is_refused_alone(tmp_path, line, message):
    line = line if isinstance(line, bytes) else line.encode()
    for content in (b"%s\n%s\n" % (A.encode(), line), b"%s\n\n%s" % (line, A.encode())):
        asked, refused = read(tmp_path, content)
        assert asked == [(A, A)] and len(refused) == 1
        assert re.search(message, next(iter(refused.values())))


def test_a_damaged_item_of_an_array_is_refused_alone(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    items = [f'{{"prompt": "{A}"}}', "null", '{"prompt": 3}', f'{{"prompt": {deep}}}', "{oops}"]
    items += ['"\\ud800"', f'"{B}"', "[1]"]
    asked, refused = read(tmp_path, "[\n" + ",\n".join(items) + "\n]")
    assert asked == [(A, A), (B, B)] and list(refused) == [3, 4, 5, 6, 7, 9]
    assert "not null" in refused[3] and "brackets within" in refused[5]
    asked, refused = read(tmp_path, f'[{{"prompt": "{A}"}},\n{{"prompt": "{B}')
    assert asked == [(A, A)] and list(refused) == [2]
    asked, refused = read(tmp_path, f'[{{"prompt": "{A}"}},]')
    assert asked == [(A, A)] and not refused


def test_texts_may_begin_like_something_else(tmp_path):
    lines = ["[photo] a cat", '"Hello" says the sign "there"', "don't", "a, b, c", "5 apples"]
    asked, refused = read(tmp_path, "\n".join(lines))
    assert [prompt for _, prompt in asked] == lines and not refused


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.csv", f"{A},a.png\n", "names its columns, `prompt` among them"),
        ("r.csv", f"prompt,style,cfg\n{A},oil,3\n", "unknown field 'style'.*--guidance"),
        ("r.csv", f"prompt,num_timesteps\n{A},3\n", "unknown field 'num_timesteps'"),
        ("r.tsv", f"text\tid\n{A}\tx\n", "names its columns"),
        ("r.txt", f"prompt,negative_prompt\n{A},x\n", "'negative_prompt' is not supported"),
        ("r.csv", "prompt,image\n", "nothing in it"),
        ("r.txt", "", "nothing in it"),
        ("r.txt", "\n \r\n", "nothing in it"),
        ("r.json", "[]", "nothing in it"),
        ("r.txt", b"a\0b", "zero bytes"),
        ("r.txt", A.encode("utf-16-le"), "zero bytes"),
        ("r.txt", codecs.BOM_UTF16_LE + b"a", "damaged UTF-16"),
    ],
)
def test_a_file_that_is_none_of_these_is_refused_as_a_whole(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content, name)


def test_rows_of_a_table_are_refused_alone(tmp_path):
    content = f'prompt,id\n"{A}",1\na, b,2\n\n"two\nlines",3\n{B},4\n"open,5\n'
    asked, refused = read(tmp_path, content, "r.csv")
    assert asked == [("1", A), ("3", "two\nlines"), ("4", B)] and list(refused) == [3, 8]
    assert "3 cells for 2 columns" in refused[3] and "cannot be read" in refused[8]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="a folder; name the file"):
        read_file(tmp_path)


def test_options_of_a_call_are_named_by_what_others_call_them():
    for name, message in (
        ("num_timesteps", "did you mean 'timesteps'"),
        ("guidance_scale", "did you mean 'guidance'"),
        ("negative_prompt", "is not supported"),
        ("tempreature", "did you mean 'temperature'"),
    ):
        with pytest.raises(ValueError, match=message):
            check_names([name], ("timesteps", "guidance", "temperature"))
