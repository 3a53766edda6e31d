# SPDX-License-Identifier: Apache-2.0
"""Parameters are declared once; the YAML file and the README's tables are written from the declarations."""

from pathlib import Path

import pytest
import yaml

from embedder_ros.nodes import parameters, wire

ROOT = Path(__file__).resolve().parents[1]


def test_yaml_file_is_what_the_declarations_write() -> None:
    assert (ROOT / 'config' / 'perception.yaml').read_text() == parameters.yaml_text()


def test_readme_tables_are_what_the_declarations_write() -> None:
    assert parameters.markdown() in (ROOT / 'README.md').read_text()


def test_rviz_shows_topics_that_are_published() -> None:
    shown = {'rviz_default_plugins/Image': wire.PICTURE, 'rviz_default_plugins/MarkerArray': wire.MARKERS}
    layout = yaml.safe_load((ROOT / 'config' / 'perception.rviz').read_text())['Visualization Manager']
    topics = {one['Class']: one['Topic'] for one in layout['Displays'] if 'Topic' in one}
    assert {kind: topic['Value'] for kind, topic in topics.items()} == {k: f'/{t.name}' for k, t in shown.items()}
    for topic in topics.values():
        assert (topic['Reliability Policy'], topic['Durability Policy']) == ('Reliable', 'Volatile')
        assert topic['Depth'] == wire.OUTPUT_QOS.depth


def test_yaml_holds_every_default() -> None:
    values = yaml.safe_load(parameters.yaml_text())['/**']['ros__parameters']
    assert values == {p.name: p.default for p in (*parameters.EMBEDDER, *parameters.GROUNDER)}


@pytest.mark.parametrize('table', [parameters.EMBEDDER, parameters.GROUNDER])
def test_every_parameter_has_a_sentence_and_every_number_a_range(table) -> None:
    for p in table:
        assert p.sentence.endswith('.'), p.name
        number = isinstance(p.default, (int, float)) and not isinstance(p.default, bool)
        assert (p.low is not None and p.high is not None and p.low <= p.default <= p.high) == number, p.name
        assert not p.choices or p.default in p.choices, p.name


def test_readme_tables_of_the_wire_are_what_the_declarations_write() -> None:
    assert wire.markdown() in (ROOT / 'README.md').read_text()
