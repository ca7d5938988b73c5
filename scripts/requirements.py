"""Print setup.cfg's install_requires and the extras named as arguments, one requirement per line."""

import configparser
import sys
from pathlib import Path

setup_cfg = configparser.ConfigParser()
setup_cfg.read(Path(__file__).parents[1] / "setup.cfg")
extras = setup_cfg["options.extras_require"]
for requirements in (setup_cfg["options"]["install_requires"], *(extras[name] for name in sys.argv[1:])):
    print(requirements.strip())
