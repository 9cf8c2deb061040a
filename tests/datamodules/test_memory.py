"""Free memory within the limits of control groups."""

import pytest

from datamodules import memory


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)


def test_it_is_known_on_linux():
    if not memory.available_on_machine():
        pytest.skip("the available memory is not known on this platform")
    assert 2**20 < memory.free_memory() < 2**50


def test_limits_of_all_groups_that_contain_the_process(tmp_path):
    (proc := tmp_path / "cgroup").write_text("0::/job/step\n")
    statistics = "anon 5\ninactive_file 30\n"
    write(tmp_path / "fs" / "job" / "step", memory__max="max", memory__current="7", memory__stat=statistics)
    write(tmp_path / "fs" / "job", memory__max="1000", memory__current="100", memory__stat=statistics)
    assert memory.available_in_cgroups(proc, tmp_path / "fs") == [930]
    write(tmp_path / "fs" / "job" / "step", memory__max="40", memory__current="100", memory__stat=statistics)
    assert memory.available_in_cgroups(proc, tmp_path / "fs") == [0, 930]


def test_the_first_version_of_control_groups(tmp_path):
    (proc := tmp_path / "cgroup").write_text("3:cpu,cpuacct:/x\n2:memory:/slurm/job\n0::/\n")
    write(
        tmp_path / "fs" / "memory" / "slurm" / "job",
        memory__limit_in_bytes="500\n",
        memory__usage_in_bytes="200\n",
        memory__stat="total_inactive_file 20\n",
    )
    assert memory.available_in_cgroups(proc, tmp_path / "fs") == [320]


def test_a_path_of_the_host_within_a_container(tmp_path):
    (proc := tmp_path / "cgroup").write_text("0::/kubepods/pod1\n")
    write(tmp_path / "fs", memory__max="300", memory__current="100", memory__stat="inactive_file 0\n")
    assert memory.available_in_cgroups(proc, tmp_path / "fs") == [200]


def test_no_control_groups(tmp_path):
    assert memory.available_in_cgroups(tmp_path / "none", tmp_path) == []


def test_the_smallest_amount_counts(monkeypatch):
    monkeypatch.setattr(memory, "available_on_machine", lambda: 100)
    monkeypatch.setattr(memory, "available_in_cgroups", lambda: [70, 80])
    assert memory.free_memory() == 70
    monkeypatch.setattr(memory, "available_on_machine", lambda: None)
    monkeypatch.setattr(memory, "available_in_cgroups", list)
    assert memory.free_memory() is None
