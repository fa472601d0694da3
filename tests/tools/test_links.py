"""The list of NIH's files that tools.download reads."""

import hashlib

from tools import download
from tools.downloading.links import NIH, read_links


def test_the_built_in_list_is_the_whole_release():
    links = read_links(NIH)
    assert [download.part_of(link) for link in links] == [None] * 4 + list(range(1, 13))
    assert sum(link.bytes for link in links) == 45_090_864_734  # "45 GB" in the manual page
    assert all(link.checksum and link.url.startswith("https://nihcc.") for link in links)
    assert len({link.url for link in links} | {link.checksum for link in links}) == 32


def test_the_built_in_sizes_and_checksums_match_the_real_files(shared_dir):
    # The copies differ from NIH's files in one column name and in a last line end; see tools/downloading/links.py.
    known = {link.name: link for link in read_links(NIH)}
    for name, restore in {
        "Data_Entry_2017_v2020.csv": lambda data: data.replace(b"Patient Gender", b"Patient Sex", 1),
        "BBox_List_2017.csv": lambda data: data,
        "train_val_list.txt": lambda data: data.removesuffix(b"\n"),
        "test_list.txt": lambda data: data.removesuffix(b"\n"),
    }.items():
        data = restore((shared_dir / "nih-128" / name).read_bytes())
        assert (len(data), f"sha256:{hashlib.sha256(data).hexdigest()}") == (known[name].bytes, known[name].checksum)
