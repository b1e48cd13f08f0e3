"""BAGEL's chains of edits: what `prepare` writes is what the official packer made of the rows."""

import pytest

from unireason_jax.data.bagel.tokens import tokenize
from unireason_jax.data.files.streams import FileRecords, Reading
from unireason_jax.data.sources import ArrayRecordSource
from unireason_jax.prepare import prepare
from unireason_jax.proof.packs import compare_sequences
from unireason_jax.proof.recorded import Recorded, Tape
from unireason_jax.proof.tally import Tally

VISITS = 60  # records drawn from each of the five rows, so that every official choice is among them


@pytest.fixture(scope="module")
def recorded(data_goldens):
    return Recorded(data_goldens)


@pytest.fixture(scope="module")
def edits(recorded, tmp_path_factory):
    """Prepared records by row and texts."""
    files = tuple(sorted((recorded.folder / "records" / "bagel" / "edit").glob("*.parquet")))
    output = tmp_path_factory.mktemp("edits") / "prepared"
    records = FileRecords(files, Reading("bagel_edit"), visits=VISITS)
    prepare(records, output, sizes="bagel", tokenizer=recorded.tokenizer)
    source = ArrayRecordSource(output)
    assert len(source) == 5 * VISITS and source.manifest["quarantined"] == 0
    found = {}
    for record in map(source.__getitem__, range(len(source))):
        assert record.source == "multi_edit"
        texts = tuple(s.text for s in record.segments if s.kind == "text")
        found[record.id.split("@")[0], texts] = record
    return found


def copies(record):
    """(clean latents, ViT patches, flow loss) of every image of a record."""
    return [(s.gen, s.und, s.loss == "flow") for s in record.segments if s.kind == "image"]


def test_prepared_chains_pack_like_the_official_ones(edits, recorded):
    """Tokens, copies, losses, positions and ViT pixels of every chain, of one hop and of two."""
    packs = {pack["id"]: pack for pack in recorded.packs}
    spec = recorded.spec(
        latent_resize=recorded.resize("vae"), vit_resize=recorded.resize("vit", "bagel", "edit")
    )
    tally, hops = Tally(), []
    for sample in recorded.samples:
        if (sample["tree"], sample["type"]) != ("bagel", "edit"):
            continue
        pack = packs[f"single/{sample['id']}"]
        record = edits[sample["record"], tuple(sample["texts"])]
        tape = Tape(pack["dropout_draws"], pack["randn_draws"])
        compare_sequences(recorded, tally, "edits", pack, [tokenize(record, spec, tape)], {})
        hops.append(len(sample["texts"]))
    assert not tally.failures, tally.table()
    assert len(hops) == 20 and {1, 2} == set(hops)


def test_the_source_is_shown_the_middle_learned_and_shown_the_end_learned(edits):
    shown, both, learned = (True, True, False), (True, True, True), (False, False, True)
    kinds = {tuple(copies(record)) for record in edits.values()}
    assert kinds == {(shown, learned), (shown, both, learned)}
