from pathlib import Path

from setuptools import Extension, find_packages, setup

here = Path(__file__).parent

# Loaded by MindSpore and ctypes, so no Python headers. Without a compiler MindSpore's own convolution serves.
compiled = Extension(
    "ms_longtail.kernels._compiled",
    [f"ms_longtail/kernels/{name}.cpp" for name in ("convolution", "batch_norm", "max_pool")],
    depends=[f"ms_longtail/kernels/{name}.h" for name in ("onednn", "operator", "pool", "vectors")],
    language="c++",
    optional=True,
    extra_compile_args=["-std=c++17", "-O2", "-ffp-contract=off", "-Wno-psabi", "-fvisibility=hidden"],
    libraries=["dl", "pthread"],
)

setup(
    name="ms-longtail",
    version="0.1.0",
    description="Long-tailed image recognition on MindSpore",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10,<3.13",  # there are MindSpore 2.10 wheels for these
    packages=[*find_packages(include=["ms_longtail", "ms_longtail.*"]), "ms_longtail.configs"],
    package_dir={"ms_longtail.configs": "configs"},
    package_data={"ms_longtail.configs": ["*/*.yaml", "*/*/*.yaml", "*/*/*/*.yaml"]},
    ext_modules=[compiled],
    install_requires=[
        "mindspore>=2.10,<2.11",
        "numpy>=1.26,<2",  # MindSpore 2.10 breaks with NumPy 2, although its own metadata allows it
        "opencv-python-headless>=4.8,<4.12",  # 4.12 needs NumPy 2
        "pillow>=10",
        "pyyaml>=6",
        "pydantic>=2.7,<3",
        "annotated-types>=0.6",
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "safetensors>=0.4",
        "matplotlib>=3.8",
        "rich>=13",
        "psutil>=5.9",
    ],
    extras_require={
        "test": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6", "ruff>=0.6"],
        "bench": ["torch>=2.4"],
    },
    entry_points={"console_scripts": ["ms-longtail=ms_longtail.cli:main"]},
)
