"""What mkdocs does beyond its configuration: pages made from the code, links into the sources, pictures in the page."""

import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from reference import ROOMS, commands_page, room_page

API = {
    "Training": [
        "pd_lightning.module.DistillationModule",
        "pd_lightning.distiller.Distiller",
        "pd_lightning.objective.Objective",
    ],
    "Targets": [
        "pd_lightning.targets.SparseTargets",
        "pd_lightning.targets.DenseTargets",
        "pd_lightning.targets.HiddenTargets",
        "pd_lightning.targets.Form",
    ],
    "Interfaces to subclass": [
        "pd_lightning.teachers.base.Teacher",
        "pd_lightning.transforms.base.Transform",
        "pd_lightning.context.Context",
        "pd_lightning.losses.base.Loss",
        "pd_lightning.losses.base.Divergence",
        "pd_lightning.weightings.base.Weighting",
        "pd_lightning.schedules.base.Schedule",
        "pd_lightning.students.Student",
        "pd_lightning.data.sources.Source",
    ],
    "Data and stores": [
        "pd_lightning.data.blocks.TokenBlocks",
        "pd_lightning.data.tokenize.tokenize",
        "pd_lightning.data.import_logits.import_rows",
        "pd_lightning.store.reader.BlockReader",
        "pd_lightning.store.manifest.read_manifest",
        "pd_lightning.inspection.describe",
    ],
    "Recording and exporting": [
        "pd_lightning.record.Recorder",
        "pd_lightning.trainer.PDTrainer",
        "pd_lightning.export.export",
        "pd_lightning.export.load_student",
    ],
}
PICTURE = re.compile(r'<p><img alt="([^"]*)" src="[^"]*assets/(\w[\w-]*\.svg)"[^>]*></p>')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the reference, made from signatures and docstrings as they are now, and the tour."""
    pages = {name: room_page(room) for name, room in ROOMS.items()}
    pages |= {"commands": commands_page(), "api": api_page()}
    for name, text in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    files.append(File.generated(config, "tour.md", content=tour(Path(config.config_file_path).parent / "README.md")))
    return files


def tour(readme: Path) -> str:
    """The tour, which stands in README, as a page."""
    (text,) = re.findall(
        r"^## The tour.*?\n(.*?)^## ", readme.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    return "# Tour\n" + text.replace("](docs/", "](").replace("[docs/", "[")


def api_page() -> str:
    """List what the Python API has, for mkdocstrings to fill in."""
    parts = ["# Python API", "What YAML names is on the pages before; here is what Python code calls and subclasses."]
    for title, names in API.items():
        parts += [f"## {title}", *(f"::: {name}" for name in names)]
    return "\n\n".join(parts) + "\n"


def on_page_markdown(markdown: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files outside docs/ into their names: a site has no checkout around it."""
    up = "../" * (page.file.src_uri.count("/") + 1)
    return re.sub(rf"\[([^\]]*)\]\({re.escape(up)}([^)]*)\)", r"\1 (`\2` of the checkout)", markdown)


def on_page_content(html: str, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Put pictures into the page itself, so that they follow its light or dark palette and can be searched."""
    return PICTURE.sub(lambda found: inlined(Path(config.docs_dir, "assets", found[2]), found[1]), html)


def inlined(path: Path, alt: str) -> str:
    """Give a picture without its own style, which the page has as well."""
    svg = re.sub(r"<style>.*?</style>\n?", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    svg = svg.replace('role="img"', f'role="img" aria-label="{alt}"')
    return f'<figure class="picture">{svg}<figcaption>{alt}</figcaption></figure>'
