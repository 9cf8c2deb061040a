import gzip
import hashlib
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import omniglot_files
import pytest
import torch
from omniglot_files import BACKGROUND, EVALUATION, SIDE, SIZES
from torchvision import datasets

from datamodules import DATAMODULES, omniglot
from datamodules.download import DataError
from datamodules.omniglot import FILE, OMNIGLOT, Omniglot28, from_one_hot, resize, to_levels

ZIPS = ["images_background.zip", "images_evaluation.zip"]


def md5(content):
    return hashlib.md5(content).hexdigest()


def use_small_files(monkeypatch, content=None):
    """The small files of these tests count as the published ones."""
    sizes = {name: (SIZES[name], labels) for name, (_, labels) in omniglot.ARRAYS.items()}
    monkeypatch.setattr(omniglot, "ARRAYS", sizes)
    monkeypatch.setattr(OMNIGLOT, "md5", md5(omniglot_files.chardata() if content is None else content))
    checksums = {name.removesuffix(".zip"): md5(zipped) for name, zipped in omniglot_files.archives().items()}
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", checksums)


@pytest.fixture(autouse=True)
def published(monkeypatch):
    use_small_files(monkeypatch)


def write_chardata(root, content=None, name=FILE):
    folder = root / "OMNIGLOT"
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(omniglot_files.chardata() if content is None else content)
    return folder


def write_zips(root):
    folder = root / "omniglot-py"
    folder.mkdir(exist_ok=True)
    for name, content in omniglot_files.archives().items():
        (folder / name).write_bytes(content)
    return folder


def ready(name, root, **options):
    data = DATAMODULES[name](str(root), **({"val_size": 10} | options))
    data.prepare_data()
    data.setup()
    return data


# OMNIGLOT of Burda et al.


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_chardata_is_read_plain_and_gzipped(tmp_path, capfd, pack):
    write_chardata(tmp_path, pack(omniglot_files.chardata()), FILE if pack is bytes else f"{FILE}.gz")
    data = ready("OMNIGLOT", tmp_path)
    assert "rounded" not in capfd.readouterr().err
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [50, 10, 20]
    assert data.image_shape == (1, SIDE, SIDE)
    assert data.num_classes == 50
    arrays = omniglot_files.arrays()
    train, test = data.fetch()
    levels = np.rint(arrays["data"] * 255)
    # a column holds an image column by column
    for number in (0, 7, 59):
        assert np.array_equal(train.x[number, 0].T.reshape(-1), levels[:, number])
    assert np.array_equal(train.y, arrays["target"].argmax(0))
    published_pixels = np.rint(arrays["testdata"] * 255).T.reshape(-1, SIDE, SIDE).swapaxes(1, 2)
    found = {x.tobytes(): y for x, y in zip(test.x[:, 0].numpy(), test.y.tolist(), strict=True)}
    assert found == {x.astype(np.uint8).tobytes(): number % 50 for number, x in enumerate(published_pixels)}


def test_the_validation_images_are_those_of_the_authors(tmp_path):
    """Their code permutes the training images with NumPy's seed 123; the last ones validate."""
    write_chardata(tmp_path)
    order = np.random.RandomState(123).permutation(SIZES["data"])
    for seed in (0, 1):
        data = ready("OMNIGLOT", tmp_path, seed=seed)
        train, _ = data.fetch()
        assert torch.equal(data.train.x, train.x[order[:-10]])
        assert torch.equal(data.grey_pixels("val"), train.x[order[-10:]])
        assert torch.equal(data.val.y, train.y[order[-10:]])
    with pytest.raises(ValueError, match="val_size must be less than the 60 training images"):
        ready("OMNIGLOT", tmp_path, val_size=60)


def test_the_published_sizes(monkeypatch):
    monkeypatch.undo()
    assert omniglot.ARRAYS == {"data": (24_345, "target"), "testdata": (8_070, "testtarget")}
    assert OMNIGLOT().hparams.val_size == 1345
    train, val = OMNIGLOT()._split(24_345)
    assert (len(train), len(val)) == (23_000, 1345)
    assert len(torch.cat([train, val]).unique()) == 24_345


def test_the_test_images_are_shuffled_the_same_in_every_run(tmp_path):
    write_chardata(tmp_path)
    first, again = (ready("OMNIGLOT", tmp_path, seed=seed).test for seed in (0, 1))
    assert torch.equal(first.x, again.x)
    assert first.y.tolist() != sorted(first.y.tolist())


def test_levels_are_exact_for_bytes_and_nearest_otherwise(tmp_path, capfd, monkeypatch):
    levels = np.arange(256)
    for dtype in (np.float32, np.float64):
        exact, error = to_levels((levels / 255).astype(dtype)[:, None])
        assert np.array_equal(exact[0], levels)
        assert error < omniglot.MAX_FLOAT_ERROR
    rounded, error = to_levels(np.array([[0.0, 0.4 / 255, 0.6 / 255, 254.4 / 255, 1.0]]))
    assert rounded.tolist() == [[0], [0], [1], [254], [255]]
    assert error == pytest.approx(0.4)
    many, _ = to_levels(np.tile(levels / 255, (3, 9)))
    assert np.array_equal(many, np.tile(levels, 9)[:, None].repeat(3, 1))

    half = omniglot_files.arrays()["data"] * 0.5
    content = omniglot_files.chardata(data=half)
    use_small_files(monkeypatch, content)
    write_chardata(tmp_path, content)
    data = ready("OMNIGLOT", tmp_path)
    message = f"The grey values in {tmp_path / 'OMNIGLOT' / FILE} are rounded to 256 levels, by up to 0.002 of white."
    assert message in capfd.readouterr().err
    assert (data.fetch()[0].x.max() - 128).abs() <= 1


NOT_CHARDATA = {
    "no MATLAB file": (b"PK not MATLAB", "is not a MATLAB file"),
    "an empty file": (b"", "is not a MATLAB file"),
    "a truncated file": (omniglot_files.chardata()[:4000], "is not a MATLAB file"),
    "a missing array": (omniglot_files.chardata(testdata=None, target=None), "lacks the arrays target, testdata"),
    "other images": (
        omniglot_files.chardata(data=np.zeros((784, 61))),
        r"data is an array \(784, 61\), the published one is \(784, 60\)",
    ),
    "other labels": (omniglot_files.chardata(testtarget=np.zeros((51, 20))), r"testtarget is an array \(51, 20\)"),
    "rows of images": (omniglot_files.chardata(data=np.zeros((60, 784))), r"data is an array \(60, 784\)"),
    "objects": (
        omniglot_files.chardata(data=np.full((784, 60), "a", object)), "data is not an array of real numbers"
    ),
    "a structure": (omniglot_files.chardata(data={"x": 1.0}), "data is not an array of real numbers"),
    "text": (omniglot_files.chardata(target="alphabets"), "target is not an array of real numbers"),
    "complex numbers": (
        omniglot_files.chardata(data=np.full((784, 60), 1j)), "data is not an array of real numbers"
    ),
    "bytes": (omniglot_files.chardata(data=np.full((784, 60), 255.0)), "data holds values outside 0 to 1"),
    "NaN": (omniglot_files.chardata(testdata=np.full((784, 20), np.nan)), "testdata holds values outside 0 to 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_CHARDATA)
def test_files_of_another_format_are_refused(tmp_path, monkeypatch, name):
    content, message = NOT_CHARDATA[name]
    use_small_files(monkeypatch, content)
    path = write_chardata(tmp_path, content) / FILE
    with pytest.raises(DataError, match=f"^{path}:? {message}.*: replace it by the published file, or move it away"):
        ready("OMNIGLOT", tmp_path)


def test_an_image_without_exactly_one_alphabet_is_unlabelled():
    columns = np.array([[0, 0, 1, 0.5, 1], [1, 0, 1, 0.5, 0.1], [0, 0, 0, 0, 0]])
    assert from_one_hot(columns).tolist() == [1, -1, -1, -1, -1]
    assert from_one_hot(np.eye(50, dtype=np.uint8)[[3, 49, 0]].T).tolist() == [3, 49, 0]


def test_another_file_of_the_same_format_is_refused(tmp_path):
    path = write_chardata(tmp_path, omniglot_files.chardata(data=np.zeros((784, 60)))) / FILE
    with pytest.raises(DataError, match=rf"^{path} does not have the published content \(md5 .*move it away"):
        ready("OMNIGLOT", tmp_path)


# Omniglot28


def test_original_images_are_inverted_and_resized(tmp_path, capfd):
    folder = write_zips(tmp_path)
    data = ready("Omniglot28", tmp_path)
    stderr = capfd.readouterr().err
    assert f"Wrote {folder}/images_28x28.npz, the resized images, for faster starts." in stderr
    assert "warning: classes Angelic, Tibetan occur only in the test images" in stderr
    assert [len(split.y) for split in (data.train, data.val, data.test)] == [10, 10, 12]
    assert data.image_shape == (1, SIDE, SIDE)
    assert data.class_names == ["Alphabet_of_the_Magi", "Latin", "Angelic", "Tibetan"]
    assert data.state_dict() == {"class_names": data.class_names}
    train, test = data.fetch()
    for split, part, alphabets in ((train, "background", BACKGROUND), (test, "evaluation", EVALUATION)):
        _, drawings = omniglot_files.archive(f"images_{part}", alphabets)
        expected = {
            resize(np.where(pixels, 0, 255).astype(np.uint8)[None])[0].tobytes(): path.split("/")[1]
            for path, pixels in drawings.items()
        }
        names = [data.class_names[label] for label in split.y.tolist()]
        assert len(expected) == len(names)
        assert {x.tobytes(): y for x, y in zip(split.x[:, 0].numpy(), names, strict=True)} == expected


def test_resizing_is_antialiased():
    """Every pixel of an image contributes: the mean is kept, also of strokes that are thinner than a new pixel."""
    stroke = np.zeros((1, 105, 105), np.uint8)
    stroke[:, 20:90, 51] = 255
    small = resize(stroke)
    assert small.shape == (1, SIDE, SIDE)
    assert small.mean() == pytest.approx(stroke.mean(), rel=0.05)
    assert 0 < small.max() < 128
    assert (resize(np.full((2, 105, 105), 255, np.uint8)) == 255).all()
    assert (resize(np.zeros((2, 105, 105), np.uint8)) == 0).all()


def test_it_agrees_with_torchvision(tmp_path):
    """The images and their inversion, from the files that torchvision unpacks."""
    from torchvision.datasets.utils import extract_archive
    from torchvision.transforms import functional

    folder = write_zips(tmp_path)
    for name in ZIPS:
        extract_archive(str(folder / name))
    train, _ = ready("Omniglot28", tmp_path).fetch()
    theirs = datasets.Omniglot(tmp_path, background=True)
    assert len(theirs) == len(train.y)
    # torchvision lists folders in the order of the file system
    by_path = sorted(
        (f"{theirs._characters[c]}/{name}", i) for i, (name, c) in enumerate(theirs._flat_character_images)
    )
    for ours, (_, number) in zip(train.x, by_path, strict=True):
        x = 255 - functional.pil_to_tensor(theirs[number][0])
        assert (functional.resize(x, [SIDE, SIDE]).int() - ours.int()).abs().max() <= 1


def test_the_second_start_reads_the_cache(tmp_path, monkeypatch, capfd):
    folder = write_zips(tmp_path)
    first = ready("Omniglot28", tmp_path)
    assert {path.name for path in folder.iterdir()} == {*ZIPS, "images_28x28.npz"}
    capfd.readouterr()

    def decode(*args):
        raise AssertionError("it was decoded again")

    monkeypatch.setattr(omniglot, "read_archive", decode)
    second = ready("Omniglot28", tmp_path)
    assert "Wrote" not in capfd.readouterr().err
    for split in ("train", "val", "test"):
        for one, other in zip(getattr(first, split), getattr(second, split), strict=True):
            assert torch.equal(one, other)
    assert first.class_names == second.class_names


def test_a_cache_of_other_files_is_replaced(tmp_path, monkeypatch):
    folder = write_zips(tmp_path)
    ready("Omniglot28", tmp_path)
    other, _ = omniglot_files.archive("images_evaluation", {"Tengwar": 3})
    (folder / ZIPS[1]).write_bytes(other)
    checksums = datasets.Omniglot.zips_md5 | {"images_evaluation": md5(other)}
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", checksums)
    assert ready("Omniglot28", tmp_path).class_names[-1] == "Tengwar"


def test_no_cache_is_written_to_a_read_only_folder(tmp_path):
    folder = write_zips(tmp_path)
    folder.chmod(0o555)
    ready("Omniglot28", tmp_path)
    assert {path.name for path in folder.iterdir()} == set(ZIPS)


@pytest.mark.parametrize("name", ZIPS)
def test_a_zip_file_with_another_checksum_is_named(tmp_path, name):
    path = write_zips(tmp_path) / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"^{path} does not have the published content"):
        ready("Omniglot28", tmp_path)


@pytest.mark.parametrize("content", [b"no zip file", omniglot_files.archive("images_background", {})[0]])
def test_a_zip_file_without_images_is_named(tmp_path, monkeypatch, content):
    path = write_zips(tmp_path) / ZIPS[0]
    path.write_bytes(content)
    checksums = datasets.Omniglot.zips_md5 | {"images_background": md5(content)}
    monkeypatch.setattr(datasets.Omniglot, "zips_md5", checksums)
    with pytest.raises(DataError, match=f"^{path} is not a zip file of images of one size"):
        ready("Omniglot28", tmp_path)


# Downloads


NEEDED = {
    "OMNIGLOT": ("OMNIGLOT", f"put {FILE} from https://github.com/yburda/iwae/.*/{FILE} into "),
    "Omniglot28": ("omniglot-py", f"put {', '.join(ZIPS)} from https://github.com/brendenlake/omniglot/.* into "),
}


@pytest.mark.parametrize("name", NEEDED)
def test_offline_one_sentence_says_what_to_put_where(tmp_path, name):
    folder, instruction = NEEDED[name]
    with pytest.raises(DataError) as error:
        ready(name, tmp_path / "new")
    assert len(str(error.value).splitlines()) == 1
    assert error.match(
        rf"^{tmp_path}/new/{folder} lacks files and the download failed \(.*Name or service not known.*\): "
        rf"{instruction}{tmp_path}/new/{folder}, plain or as .gz.$"
    )
    assert not (tmp_path / "new").exists()


@pytest.fixture
def server(monkeypatch):
    """A local server in place of github.com: start(contents) returns its requests."""
    servers = []
    monkeypatch.undo()  # connections are allowed
    use_small_files(monkeypatch)

    def start(contents):
        class Mirror(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.rpartition("/")[2]
                requests.append(name)
                if name not in contents:
                    self.send_error(404)
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(contents[name])))
                self.end_headers()
                self.wfile.write(contents[name])

            def log_message(self, *message):
                pass

        requests = []
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Mirror))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{servers[-1].server_port}"
        monkeypatch.setattr(omniglot, "ADDRESS", f"{address}/{FILE}")
        monkeypatch.setattr(datasets.Omniglot, "download_url_prefix", address)
        return requests

    yield start
    for each in servers:
        each.shutdown()
        each.server_close()


@pytest.mark.parametrize("name", NEEDED)
def test_missing_files_are_downloaded_once(tmp_path, server, name):
    contents = {FILE: omniglot_files.chardata()} if name == "OMNIGLOT" else omniglot_files.archives()
    requests = server(contents)
    data = ready(name, tmp_path)
    assert sorted(set(requests)) == sorted(contents)
    assert {path.name: path.read_bytes() for path in data.folder.iterdir() if path.name in contents} == contents
    assert not [path for path in data.folder.iterdir() if path.name.startswith((".download-", ".cache-"))]
    before = len(requests)
    ready(name, tmp_path)
    assert len(requests) == before


@pytest.mark.parametrize("name", NEEDED)
@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_a_failed_download_leaves_nothing_behind(tmp_path, server, name, fault):
    contents = {FILE: omniglot_files.chardata()} if name == "OMNIGLOT" else omniglot_files.archives()
    server({} if fault == "missing" else {file: content[:-9] for file, content in contents.items()})
    folder, _ = NEEDED[name]
    with pytest.raises(DataError) as error:
        ready(name, tmp_path / "new")
    assert error.match(rf"{folder} lacks files and the download failed \(.*\): put ")
    assert len(str(error.value).splitlines()) == 1
    assert not (tmp_path / "new").exists()


# Options


def test_hyper_parameters_are_the_constructors_arguments():
    for name, val_size in (("OMNIGLOT", 1345), ("Omniglot28", 1280)):
        hparams = dict(DATAMODULES[name]("somewhere", seed=3).hparams)
        assert hparams["val_size"] == val_size
        assert (hparams["root"], hparams["seed"]) == ("somewhere", 3)
        assert json.loads(json.dumps(hparams)) == hparams
    assert OMNIGLOT.version == "Burda et al. 2015"
    assert Omniglot28.version
