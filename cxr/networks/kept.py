"""Networks of OpenVINO that are kept as files, so that every use of an experiment runs the very same one.

data/records/features/networks/   beside the feature caches: <name>-<hash>.xml and .bin, and <name>-<recipe>.json, which
                                  says which file a network, precision and dataset gave
experiments/X/networks/           those that an experiment was trained with: <extractor>.xml and .bin

The SHA-256 of each is in run.json.
"""

import hashlib
import json
import pathlib
import tempfile
from typing import TYPE_CHECKING, NamedTuple

from etils import epath

from cxr import identity, storage
from cxr.networks import conversion, quantization
from cxr.networks.extractors import Extractor
from cxr.records.dataset import Dataset
from cxr.specs import extractor_name, extractor_names, without

if TYPE_CHECKING:
    import openvino

FOLDER = "networks"
PARTS = (".xml", ".bin")  # layers, weights
METHOD = "nncf 1"  # of int8; a new value quantises every network again


class NetworkFile(NamedTuple):
    """A network of OpenVINO on disk."""

    path: str  # without ending; may be gs://
    sha256: str  # hash of both files

    def data(self) -> list[bytes]:
        """The bytes of the files, in the order of PARTS.

        Raises:
            ValueError: a file is absent, or they are not those that were written.
        """
        paths = [epath.Path(self.path + ending) for ending in PARTS]
        parts = [path.read_bytes() if path.exists() else b"" for path in paths]
        if hash_of(parts) != self.sha256:
            state = "are damaged, or of another network" if all(path.exists() for path in paths) else "are not complete"
            raise ValueError(
                f"the network files {self.path}.xml and .bin {state} (SHA-256 {hash_of(parts)[:12]}, expected "
                f"{self.sha256[:12]}). Restore them; or delete them and train again with --restart"
            )
        return parts

    def read(self) -> "openvino.Model":
        """Load the network; raises like `data`."""
        layers, weights = self.data()
        return conversion.openvino_core().read_model(layers, weights)

    def copy(self, path: epath.PathLike) -> "NetworkFile":
        """Write the same network to another path, unless it is there; raises like `data`."""
        copied = self._replace(path=str(path))
        if not copied.is_whole():
            write_parts(self.data(), path)
        return copied

    def is_whole(self) -> bool:
        """Whether the files are there and have the right hash."""
        paths = [epath.Path(self.path + ending) for ending in PARTS]
        return all(path.exists() for path in paths) and hash_of([path.read_bytes() for path in paths]) == self.sha256


def hash_of(parts: list[bytes]) -> str:
    """SHA-256 of the files of a network."""
    return hashlib.sha256(b"".join(parts)).hexdigest()


def write_parts(parts: list[bytes], path: epath.PathLike) -> None:
    """Write the files of a network."""
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    for ending, data in zip(PARTS, parts, strict=True):
        with storage.whole_file(f"{path}{ending}") as file:
            file.write(data)


def in_cache(images: Dataset, name: str, sha256: str) -> NetworkFile:
    """A network beside the feature caches of a dataset, whether it is there or not."""
    return NetworkFile(str(images.folder / "features" / FOLDER / f"{name}-{sha256[:12]}"), sha256)


def prepared(extractor: Extractor, images: Dataset, options: dict) -> NetworkFile:
    """The network of an extractor for a precision and dataset; converted, and in int8 quantised, if it is not kept yet.

    Args:
        extractor: with its original network.
        options: everything beside extractor and dataset that changes the network; "precision" is read here.
    """
    is_int8 = options["precision"] == "int8"
    spec = without(extractor.spec, ["seen"])
    recipe = {"sha256": extractor.sha256, "spec": spec, "image_size": images.info["image_size"], **options}
    recipe |= {"fingerprint": images.info["fingerprint"], "method": METHOD} if is_int8 else {}
    key = hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()
    note = images.folder / "features" / FOLDER / f"{extractor.name}-{key[:12]}.json"
    if (found := noted(note, images, extractor.name)) is not None:
        return found
    note.parent.mkdir(parents=True, exist_ok=True)
    with storage.exclusive(note.parent, "preparing networks in"):
        network = conversion.to_openvino(extractor.model, extractor.name)
        if is_int8:
            network = quantization.quantize(network, images, extractor.name)
        parts = serialized(network, half=options["precision"] == "bfloat16")
        file = in_cache(images, extractor.name, hash_of(parts))
        write_parts(parts, file.path)
        storage.write_json(note, {"sha256": file.sha256, "recipe": recipe})
    return file


def noted(note: epath.Path, images: Dataset, name: str) -> NetworkFile | None:
    """The network that a recipe gave before; None if it is not kept, or damaged."""
    if not note.exists():
        return None
    file = in_cache(images, name, storage.read_json(note)["sha256"])
    return file if file.is_whole() else None


def serialized(network: "openvino.Model", *, half: bool) -> list[bytes]:
    """The files of a network.

    Args:
        half: store weights as float16, which has more digits than the bfloat16 that they are used in.
    """
    openvino = conversion.load_openvino()
    for number, operation in enumerate(network.get_ordered_ops()):  # names count what this process has made before
        operation.set_friendly_name(f"{operation.get_type_name()}_{number}")
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "network.xml"
        openvino.save_model(network, path, compress_to_fp16=half)
        return [path.with_suffix(ending).read_bytes() for ending in PARTS]


def path_of(model_dir: pathlib.Path, name: str) -> pathlib.Path:
    """Path of an extractor's network in an experiment, without ending."""
    return model_dir / FOLDER / name


def of_experiment(model_dir: pathlib.Path) -> dict[str, tuple[Extractor, NetworkFile]]:
    """The extractors that an experiment was trained with, and the files of their networks; {} in runtime "keras".

    Raises:
        ValueError: a file is absent, damaged or of another network.
    """
    run = identity.read(model_dir)
    found = {}
    for name, spec in extractor_names(run["params"]["extractors"]).items() if run.get("prepared") else ():
        file = NetworkFile(str(path_of(model_dir, name)), run["prepared"][name])
        found[name] = Extractor(extractor_name(spec), spec, file.read(), run["networks"][name]), file
    return found
