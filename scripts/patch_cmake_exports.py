"""Make the ROS wheels' CMake files name this interpreter's folders.

Their export files carry the include folders of the machine that built the wheels. Those do not exist here, and CMake
refuses include folders that do not exist. Run with the environment's Python after every installation.
"""

import re
import sys
import sysconfig
from pathlib import Path

import numpy as np

OTHER_PYTHON = re.compile(r'"[^";]*/include/python3\.\d+;[^";]*/site-packages/numpy/_?core/include"')

ours = f'"{sysconfig.get_path("include")};{np.get_include()}"'
for path in (Path(sys.prefix) / "share").glob("*/cmake/*Export.cmake"):
    text = path.read_text(encoding="utf-8")
    patched = OTHER_PYTHON.sub(lambda _: ours, text)
    if patched != text:
        path.write_text(patched, encoding="utf-8")
