"""The devices that TensorFlow computes on: setup, description and mirrored training."""

import functools
import logging
import os
import pathlib
import platform

from cxr.networks.imports import import_tensorflow

log = logging.getLogger("train.devices")


def prepare_devices(*, deterministic: bool = False) -> None:
    """Import TensorFlow and set up every visible GPU, before TensorFlow first computes. Further calls do no harm.

    GPU memory grows on demand, so that processes can share a GPU; by default TensorFlow takes all of it. If TensorFlow
    has opened the GPUs already, it is too late for this process, and a warning is logged.

    Args:
        deterministic: use only kernels that give the same numbers in every run. They are slower on a GPU, and stay
            enabled for the rest of the process.
    """
    import_tensorflow()
    import tensorflow as tf

    for gpu in tf.config.get_visible_devices("GPU"):
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError) as error:  # in use already, or divided into logical devices of a fixed size
            log.warning("memory growth of %s cannot be set: %s", gpu.name, error)
    if deterministic:
        tf.config.experimental.enable_op_determinism()


def describe_devices() -> str:
    """The devices of TensorFlow in words: "2 x NVIDIA A100-SXM4-40GB", or "CPU AMD EPYC 7B13, 8 cores"."""
    import tensorflow as tf

    details = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.get_visible_devices("GPU")]
    names = [detail.get("device_name", "GPU of unknown name") for detail in details]
    if not names:
        cores = usable_cores()
        return f"CPU {processor_name()}, {cores} core{'s' * (cores > 1)}"
    counts = {name: names.count(name) for name in names}
    return ", ".join(f"{count} x {name}" if count > 1 else name for name, count in counts.items())


def processor_name(cpuinfo: pathlib.Path = pathlib.Path("/proc/cpuinfo")) -> str:
    """The model name of the processor; its architecture if the system does not report a name."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(filter(None, names), platform.machine())


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache  # a second strategy over the same devices confuses TensorFlow's collectives
def mirrored_devices(*devices: str):
    """The strategy that trains on several devices of this machine; the default strategy if there is only one.

    Each device gets a share of every batch, and batch norm uses the statistics of that share.

    Args:
        devices: names of devices; default every GPU.
    """
    import tensorflow as tf

    names = devices or tuple(device.name for device in tf.config.list_logical_devices("GPU"))
    return tf.distribute.MirroredStrategy(names) if len(names) > 1 else tf.distribute.get_strategy()
