"""The papers' measures on small stand-ins, and the voting page: what may be called FID, what is told beside it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from training import papers, vote
from training.paths import SHIPPED


class Channels(nn.Module):
    """Stands for InceptionV3: its features are the channels' means, of 255."""

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        """(n, 3, h, w) bytes to (n, 3)."""
        return x.float().mean((2, 3)) / 255 if return_features else x.float()


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A TorchScript file."""
    path = tmp_path / "net.pt"
    torch.jit.script(Channels()).save(str(path))
    return path


def folder(path: Path, colours: list[tuple[int, int, int]], edge: int = 40) -> Path:
    """A folder of pictures of one colour each, wider than high."""
    path.mkdir()
    for i, colour in enumerate(colours):
        Image.new("RGB", (edge + 8, edge), colour).save(path / f"{i:02d}.png")
    return path


def test_a_frechet_distance_has_its_name_from_its_weights(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unknown weights are not FID; the caller's word is told; the right checksum is FID. All say what differs."""
    greys = [(i, i, i) for i in (0, 51, 102)]
    real, drawn = (
        folder(tmp_path / "real", greys),
        folder(tmp_path / "drawn", [(a + 51, b, c) for a, b, c in greys]),
    )
    small = papers.PROTOCOLS["add"]._replace(samples=3, edge=16)
    report = papers.fid(weights, real, drawn, small)
    assert report["Frechet distance on the features of net.pt, not FID"] == pytest.approx(0.04, abs=2e-3)
    assert report["differs"] == ["the weights"]
    assert "FID (on the caller's word" in " ".join(papers.fid(weights, real, drawn, small, trusted=True))
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    monkeypatch.setattr(papers, "INCEPTION", {digest: "it"})
    report = papers.fid(weights, real, drawn, small._replace(samples=4))
    assert "FID" in report
    assert report["differs"] == ["3 pictures, not 4"]


def test_clip_score_of_a_small_clip(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of transformers' own is read; another encoder than the paper's is told."""
    tokenizer = CLIPTokenizer.from_pretrained(SHIPPED / "tokenizer_2")
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
        projection_dim=8,
    )
    torch.manual_seed(0)
    for part in (CLIPModel(config), tokenizer, CLIPImageProcessorPil(size=32, crop_size=32)):
        part.save_pretrained(tmp_path / "clip")
    drawn = folder(tmp_path / "drawn", [(200, 0, 0), (0, 0, 200)])
    words = tmp_path / "captions.txt"
    words.write_text("a red square\n\na blue square\n")
    papers.main(["clip", "--clip", str(tmp_path / "clip"), "--captions", str(words), "--drawn", str(drawn)])
    report = json.loads(capsys.readouterr().out)
    assert -1 < report["CLIP score (clip)"] < 1
    assert report["differs"] == ["2 pictures, not 5000", "the encoder is not ViT-g-14"]


def test_coco_captions_are_the_first_of_each_picture(tmp_path: Path) -> None:
    """By picture, then by annotation."""
    rows = [(9, 3, "late"), (2, 8, "other"), (2, 7, " one "), (9, 1, "early")]
    path = tmp_path / "captions.json"
    path.write_text(json.dumps({"annotations": [{"image_id": i, "id": k, "caption": c} for i, k, c in rows]}))
    assert papers.captions(path) == ["one", "early"]


def test_missing_paths_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is downloaded instead."""
    with pytest.raises(SystemExit):
        papers.main(["fid", "--inception", str(tmp_path / "none.pt")])
    assert "needs --inception" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="no pictures"):
        papers.pictures(tmp_path)


def test_the_embedded_model_draws_for_the_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One picture per caption; those that are there stay."""
    monkeypatch.setitem(papers.PROTOCOLS, "add", papers.PROTOCOLS["add"]._replace(edge=64))
    (tmp_path / "captions.txt").write_text("cat\ndog\n")
    (tmp_path / "out").mkdir()
    kept = np.zeros((4, 4, 3), np.uint8)
    Image.fromarray(kept).save(tmp_path / "out" / "000000.png")
    paths = {name: str(tmp_path / file) for name, file in (("captions", "captions.txt"), ("out", "out"))}
    papers.main(["draw", "--model", str(SHIPPED), "--captions", paths["captions"], "--out", paths["out"]])
    sizes = []
    for path in papers.pictures(tmp_path / "out"):
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes == [(4, 4), (64, 64)]


def test_the_voting_page_holds_every_pair_and_stays_blind(tmp_path: Path) -> None:
    """Only pictures that both sides have; prompts by name; nothing in them can end the script."""
    a, b = folder(tmp_path / "ours", [(9, 9, 9)] * 3), folder(tmp_path / "theirs", [(1, 1, 1)] * 2)
    (a / "prompts.json").write_text(json.dumps({"00": "a </script> cat"}))
    out = tmp_path / "vote.html"
    vote.main(["page", "--a", str(a), "--b", str(b), "--out", str(out), "--question", "prompt"])
    text = out.read_text()
    found = re.search(r"const PAIRS = (.*?), KEY", text)
    assert found is not None
    data = json.loads(found[1])
    assert [item["prompt"] for item in data["items"]] == ["a </script> cat", "01"]
    assert all(item["a"].startswith("data:image/webp") and item["a"] != item["b"] for item in data["items"])
    assert text.count("</script>") == 1
    body = text.split("<script>")[0]
    assert "ours" not in body
    assert "what the words say" in body


def test_votes_are_counted_over_all_voters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Undecided votes are told apart; votes about other pictures are refused."""
    one = {"id": "x", "a": "ours", "b": "theirs", "votes": [{"chosen": "a"}] * 5 + [{"chosen": None}]}
    two = {**one, "votes": [{"chosen": "a"}] * 3 + [{"chosen": "b"}] * 2}
    paths = [tmp_path / name for name in ("one.json", "two.json", "other.json")]
    for path, ballot in zip(paths, (one, two, {**one, "id": "y"}), strict=True):
        path.write_text(json.dumps(ballot))
    vote.main(["count", str(paths[0]), str(paths[1])])
    report = json.loads(capsys.readouterr().out)
    assert (report["a preferred"], report["decided"], report["undecided"], report["voters"]) == (
        0.8,
        10,
        1,
        2,
    )
    assert report["Wilson"] == pytest.approx([0.4902, 0.9433], abs=1e-4)
    assert report["Clopper-Pearson"] == pytest.approx([0.4439, 0.9748], abs=1e-4)
    with pytest.raises(SystemExit, match="same pictures"):
        vote.count(paths)
