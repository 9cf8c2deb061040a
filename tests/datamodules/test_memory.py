"""Free and total memory within the limits of control groups."""

import pytest

from datamodules import memory


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def left(proc, root):
    return [group.left() for group in memory.control_groups(proc, root)]


def limits(proc, root):
    return [group.limit() for group in memory.control_groups(proc, root)]


def test_it_is_known_on_linux():
    if not memory.available_on_machine():
        pytest.skip("the available memory is not known on this platform")
    assert 2**20 < memory.free_memory() <= memory.total_memory() < 2**50


def test_limits_of_all_groups_that_contain_the_process(tmp_path):
    (proc := tmp_path / "cgroup").write_text("0::/job/step\n")
    statistics = "anon 5\ninactive_file 30\n"
    write(tmp_path / "fs" / "job" / "step", memory__max="max", memory__current="7", memory__stat=statistics)
    write(tmp_path / "fs" / "job", memory__max="1000", memory__current="100", memory__stat=statistics)
    assert left(proc, tmp_path / "fs") == [None, 930, None]
    assert limits(proc, tmp_path / "fs") == [None, 1000, None]
    write(tmp_path / "fs" / "job" / "step", memory__max="40", memory__current="100", memory__stat=statistics)
    assert left(proc, tmp_path / "fs") == [0, 930, None]
    assert limits(proc, tmp_path / "fs") == [40, 1000, None]


def test_the_first_version_of_control_groups(tmp_path):
    (proc := tmp_path / "cgroup").write_text("3:cpu,cpuacct:/x\n2:memory:/slurm/job\n0::/\n")
    write(
        tmp_path / "fs" / "memory" / "slurm" / "job",
        memory__limit_in_bytes="500\n",
        memory__usage_in_bytes="200\n",
        memory__stat="total_inactive_file 20\n",
    )
    found = [group for group in memory.control_groups(proc, tmp_path / "fs") if group.limit()]
    assert [(group.left(), group.limit()) for group in found] == [(320, 500)]


def test_a_path_of_the_host_within_a_container(tmp_path):
    (proc := tmp_path / "cgroup").write_text("0::/kubepods/pod1\n")
    write(tmp_path / "fs", memory__max="300", memory__current="100", memory__stat="inactive_file 0\n")
    assert left(proc, tmp_path / "fs") == [None, None, 200]


def test_no_control_groups(tmp_path):
    assert memory.control_groups(tmp_path / "none", tmp_path) == []


def test_the_smallest_amount_counts(monkeypatch, tmp_path):
    files = {"memory__current": "30", "memory__stat": "inactive_file 0\n"}
    write(tmp_path / "job", memory__max="100", **files)
    write(tmp_path, memory__max="max", **files)
    groups = [memory.ControlGroup(folder, *memory.CGROUP_2) for folder in (tmp_path / "job", tmp_path)]
    monkeypatch.setattr(memory, "available_on_machine", lambda: 90)
    monkeypatch.setattr(memory, "memory_of_machine", lambda: 1000)
    monkeypatch.setattr(memory, "control_groups", lambda: groups)
    assert (memory.free_memory(), memory.total_memory()) == (70, 100)
    monkeypatch.setattr(memory, "control_groups", list)
    assert (memory.free_memory(), memory.total_memory()) == (90, 1000)
    for name in ("available_on_machine", "memory_of_machine"):
        monkeypatch.setattr(memory, name, lambda: None)
    assert (memory.free_memory(), memory.total_memory()) == (None, None)
