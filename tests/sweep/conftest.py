import pytest
import yaml


@pytest.fixture
def sweep_file(tmp_path):
    """Return a function that writes a sweep file with these parameters and returns its path."""

    def write(parameters, **keys):
        file = tmp_path / "file.yaml"
        file.write_text(
            yaml.safe_dump({"program": "train.py", "method": "grid", "parameters": parameters} | keys, sort_keys=False)
        )
        return file

    return write
