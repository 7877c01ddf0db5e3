"""Folders and CSV files of images are read as they are meant, or refused by name."""

import os

import pytest

from handful.data.image_files import ImageFiles
from handful.data.image_listing import list_csv, list_folder
from handful.errors import ArgumentError, DataError


@pytest.fixture
def classes(tmp_path, make_picture):
    """Make a folder with one folder each for three classes."""
    root = tmp_path / "photos"
    for name, files in (("dog", ["b.png", "a.JPG"]), ("ant", ["x/1.gif", "2.bmp"])):
        for file in files:
            path = root / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            make_picture(6, 8, 0).save(path)
    return root


def test_folders_are_classes_in_sorted_order(classes):
    found = list_folder(classes)
    assert found.classes == ("ant", "dog")
    names = [os.path.relpath(path, classes) for path in found.paths]
    assert names == ["ant/2.bmp", "ant/x/1.gif", "dog/a.JPG", "dog/b.png"]
    assert found.labels == [0, 0, 1, 1]
    files = ImageFiles.from_folder(classes, 5)
    assert files.classes == ("ant", "dog")
    assert [files[i][1] for i in range(4)] == [0, 0, 1, 1]


def test_other_files_and_hidden_ones_are_left_out(classes):
    before = list_folder(classes)
    for name in ("ant/notes.txt", "ant/.cache.png", "labels.csv"):
        (classes / name).write_text("no image")
    (classes / ".git").mkdir()
    assert list_folder(classes) == before


def test_class_without_images_is_named(classes):
    (classes / "cat").mkdir()
    with pytest.raises(DataError, match=r"cat must hold at least one image; it hol"):
        list_folder(classes)


def test_folder_without_classes_is_named(tmp_path):
    with pytest.raises(DataError, match="must hold one folder for each class"):
        list_folder(tmp_path)


@pytest.mark.parametrize(("name", "what"), [("none", "no such folder"), ("f", "a fi")])
def test_root_that_is_no_folder_is_named(tmp_path, name, what):
    (tmp_path / "f").write_text("")
    with pytest.raises(ArgumentError, match=f"root must be a folder.*{what}"):
        list_folder(tmp_path / name)


def test_link_to_nothing_is_named_with_its_target(classes):
    (classes / "dog" / "gone.png").symlink_to("elsewhere.png")
    with pytest.raises(DataError, match=r"gone\.png must be.*link to elsewhere\.png"):
        list_folder(classes)


def test_links_to_folders_are_not_followed_and_those_to_files_are(classes):
    (classes / "dog" / "again").symlink_to(classes)
    (classes / "dog" / "c.png").symlink_to("b.png")
    assert list_folder(classes).labels == [0, 0, 1, 1, 1]


def write(folder, text):
    path = folder / "list.csv"
    path.write_bytes(text.encode())
    return path


@pytest.fixture
def three(write_images):
    """Write three images."""
    return write_images(3)[0]


def test_rows_give_paths_and_numbers(tmp_path, three):
    file = write(tmp_path, "0000.jpg,5\n0002.jpg,3\r\n\n0001.jpg, 4\n")
    found = list_csv(file)
    assert found.paths == [str(three[0]), str(three[2]), str(three[1])]
    assert found.labels == [5, 3, 4]
    assert found.classes is None


def test_texts_become_classes_in_sorted_order(tmp_path, three):
    file = write(tmp_path, "path,label\n0000.jpg,wasp\n0001.jpg,bee\n0002.jpg,wasp\n")
    found = list_csv(file)
    assert found.classes == ("bee", "wasp")
    assert found.labels == [1, 0, 1]


def test_columns_are_found_by_name_or_position(tmp_path, three):
    file = write(tmp_path, "\ufefffile,kind,id\n0000.jpg,2,9\n0001.jpg,1,8\n")
    named = list_csv(file, path_column="file", label_column="kind")
    placed = list_csv(file, path_column=0, label_column=1)
    assert named == placed
    assert named.labels == [2, 1]
    files = ImageFiles.from_csv(file, None, "file", "kind", 6)
    assert (len(files), files[1][1]) == (2, 1)


def test_root_is_where_paths_start(tmp_path, three):
    inner = tmp_path / "lists"
    inner.mkdir()
    file = write(inner, "0001.jpg,0\n")
    assert list_csv(file, tmp_path).paths == [str(three[1])]
    with pytest.raises(DataError, match=r"line 1, must name an image; there is no fi"):
        list_csv(file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"list\.csv must list at least one image; it is empty"),
        ("\n\n", "it is empty"),
        ("0000.jpg,1\n0009.jpg,1\n", r"line 2, must name.*no file .*0009\.jpg"),
        ("0000.jpg,1\n0001.jpg\n", r"line 2, must have at least 2 columns; it has 1"),
        ("0000.jpg,1\n0001.jpg, \n", r"line 2, column 2, must not be empty"),
        ("0000.jpg,1\n,1\n", r"line 2, column 1, must not be empty"),
        ('0000.jpg,1\n"0001.jpg,1\n', r"line 2, is not CSV: unexpected end of data"),
        ('"0000.jpg"x,1\n', r"line 1, is not CSV"),
    ],
)
def test_bad_rows_are_named_by_file_and_line(tmp_path, three, text, message):
    with pytest.raises(DataError, match=message):
        list_csv(write(tmp_path, text))


def test_header_alone_is_refused(tmp_path):
    with pytest.raises(DataError, match="it has only a header"):
        list_csv(write(tmp_path, "path,label\n"), has_header=True)


def test_link_to_nothing_in_a_row_is_said_to_be_one(tmp_path, three):
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    file = write(tmp_path, "0000.jpg,1\nlost.jpg,1\n")
    with pytest.raises(DataError, match=r"line 2, must .*lost\.jpg \(a link to noth"):
        list_csv(file)


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "list.csv"
    path.write_bytes("größe.jpg,1\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"list\.csv must be text in UTF-8"):
        list_csv(path)


@pytest.mark.parametrize(("name", "what"), [("none", "no such file"), (".", "a fold")])
def test_csv_that_is_no_file_is_named(tmp_path, name, what):
    with pytest.raises(ArgumentError, match=f"csv must be a CSV file; .*{what}"):
        list_csv(tmp_path / name)


def test_unknown_columns_are_named_with_those_there_are(tmp_path, three):
    file = write(tmp_path, "path,label\n0000.jpg,1\n")
    with pytest.raises(ArgumentError, match=r"label_column must.*\(path, label\).*'y'"):
        list_csv(file, label_column="y")
    with pytest.raises(ArgumentError, match=r"path_column must be one of the 2.*got 2"):
        list_csv(file, path_column=2)
