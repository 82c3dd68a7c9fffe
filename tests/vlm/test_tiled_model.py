"""The model behind projectors and tiles: places of tokens in the whole picture, and models from before both."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from vlmablate import files
from vlmablate.errors import UserError
from vlmablate.evaluation.decoding import decode
from vlmablate.training.packing import Segment, attention_mask, pack
from vlmablate.training.steps import MODEL_CARD, MODEL_FILE, load_model
from vlmablate.vlm.image import resize_naive
from vlmablate.vlm.language_model import LanguageModel, LanguageModelConfig
from vlmablate.vlm.model import VisionLanguageModel, picture_places
from vlmablate.vlm.projectors import build_projector
from vlmablate.vlm.projectors.base import grid_places
from vlmablate.vlm.tiling import ONE_SQUARE, TileLayout, fixed_tiles

GRID, CHANNELS, WIDTH = 4, 6, 8
CONFIG = LanguageModelConfig(vocabulary=13, grid=GRID, layers=2, width=WIDTH, heads=2, bins=0, segment=8)
PACKED = pack([[Segment((1, 2), (3,))], [Segment((4, 5, 6), (7, 8))]])
TILES = TileLayout(2, True)


def model(tiles: TileLayout = ONE_SQUARE, side: int = GRID, **projector: Any) -> VisionLanguageModel:
    """Random weights, place codes and biases included."""
    generator = torch.Generator().manual_seed(0)
    config = projector or {"name": "linear"}
    made = VisionLanguageModel(
        build_projector(config, CHANNELS, WIDTH, side, generator), LanguageModel(CONFIG), None, tiles
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.normal_(0.0, 0.5, generator=generator)
    return made.eval()


def features(tiles: int, side: int = GRID, batch: int = 2) -> Tensor:
    return torch.randn(batch, tiles * side * side, CHANNELS, generator=torch.Generator().manual_seed(1))


def hidden(made: VisionLanguageModel, seen: Tensor) -> Tensor:
    mask = attention_mask(PACKED.segments, made.cells)
    return made(seen, PACKED.tokens, PACKED.positions, mask)


def test_one_square_on_the_grid_is_the_language_model_behind_the_projector_to_the_last_bit() -> None:
    made, seen = model(), features(1)
    mask = attention_mask(PACKED.segments, GRID * GRID)
    expected = made.language(made.projector(seen), PACKED.tokens, PACKED.positions, mask)
    assert made.on_grid
    assert torch.equal(hidden(made, seen), expected)


def test_pooled_tokens_stand_between_the_cells() -> None:
    made, seen = model(name="pixel_shuffle"), features(1)
    assert (made.cells, made.on_grid) == (4, False)
    codes = made.language.row_codes, made.language.column_codes
    middle = [(a + b) / 2 for axis in codes for a, b in ((axis[0], axis[1]), (axis[2], axis[3]))]
    rows, columns = middle[:2], middle[2:]
    placed = made.projector(seen) + torch.stack([row + column for row in rows for column in columns])
    mask = attention_mask(PACKED.segments, 4)
    expected = made.language(placed, PACKED.tokens, PACKED.positions, mask, None)
    torch.testing.assert_close(hidden(made, seen), expected)


def test_tokens_without_a_place_get_no_code() -> None:
    made, seen = model(name="qformer", queries=3, layers=2, heads=2), features(1)
    before = hidden(made, seen)
    with torch.no_grad():
        made.language.row_codes.add_(1.0)
    assert torch.equal(hidden(made, seen), before)


def test_tokens_of_tiles_stand_where_their_frames_say() -> None:
    """The middle of every cell of every tile, brought to the original picture and from there to the model's grid."""
    image, size = Image.new("RGB", (300, 120)), 32
    tiles, _ = fixed_tiles(image, size, TILES, resize_naive, (0, 0, 0))
    projector = build_projector({"name": "linear"}, CHANNELS, WIDTH, GRID, torch.Generator())
    places = picture_places(projector, GRID, TILES)
    assert places is not None
    expected = []
    for tile in tiles:
        for row, column in grid_places(GRID, GRID).tolist():
            x, y = ((index + 0.5) * size / GRID for index in (column, row))
            x0, y0, _, _ = tile.frame.to_original((x, y, x, y))
            place = y0 / image.height * GRID - 0.5, x0 / image.width * GRID - 0.5
            expected.append([min(max(value, 0.0), GRID - 1.0) for value in place])
    torch.testing.assert_close(places, torch.tensor(expected))
    assert len(set(map(tuple, places[: 4 * GRID * GRID].tolist()))) == 4 * GRID * GRID


@pytest.mark.parametrize("config", [{"name": "gelu_mlp"}, {"name": "pixel_shuffle"}, {"name": "ldp"}])
def test_every_tile_goes_through_the_projector_on_its_own(config: dict[str, Any]) -> None:
    made, seen = model(TILES, **config), features(TILES.count)
    cells = [made.projector(part) for part in seen.chunk(TILES.count, dim=1)]
    assert made.cells == 5 * made.projector.tokens
    mask = attention_mask(PACKED.segments, made.cells)
    expected = made.language(
        torch.cat(cells, dim=1),
        PACKED.tokens,
        PACKED.positions,
        mask,
        picture_places(made.projector, GRID, TILES),
    )
    torch.testing.assert_close(hidden(made, seen), expected)


def test_which_tile_shows_a_thing_matters() -> None:
    made, seen = model(TILES), features(TILES.count)
    cells = GRID * GRID
    swapped = torch.cat([seen[:, cells : 2 * cells], seen[:, :cells], seen[:, 2 * cells :]], dim=1)
    assert float((hidden(made, seen) - hidden(made, swapped)).detach().abs().max()) > 1e-3


def test_a_picture_answers_alike_alone_and_in_a_batch_of_tiled_ones() -> None:
    made, seen = model(TILES, name="ldp"), features(TILES.count, batch=3)
    prompts = [(row, [(1, 2), (3, 4, 5)]) for row in range(3)]
    together = decode(made, lambda rows: seen[torch.from_numpy(rows)], prompts, 2)
    alone = [decode(made, lambda rows: seen[torch.from_numpy(rows)], [prompt], 2)[0] for prompt in prompts]
    assert together == alone


def test_a_grid_of_another_side_is_laid_over_the_same_picture() -> None:
    projector = build_projector({"name": "linear"}, CHANNELS, WIDTH, 8, torch.Generator())
    places = picture_places(projector, GRID, ONE_SQUARE)
    assert places is not None
    assert places[[0, 1, 9, 63]].tolist() == [[0.0, 0.0], [0.0, 0.25], [0.25, 0.25], [3.0, 3.0]]


def test_tiles_without_places_are_refused() -> None:
    with pytest.raises(UserError, match="could not be told apart"):
        model(TILES, name="qformer", queries=3, layers=1, heads=2)


def test_cells_that_are_no_square_grids_are_refused() -> None:
    assert TILES.cells_a_side(80) == 4
    with pytest.raises(UserError, match="80 cells do not make 1 square grids"):
        ONE_SQUARE.cells_a_side(80)


def test_a_model_from_before_projectors_had_options_still_loads(tmp_path: Path) -> None:
    made = model(name="gelu_mlp")
    save_file(made.state_dict(), tmp_path / MODEL_FILE)
    card = {**asdict(CONFIG), "projector": "gelu_mlp", "channels": CHANNELS}
    files.write_json(tmp_path / MODEL_CARD, card)
    seen = features(1)
    assert torch.equal(hidden(load_model(tmp_path), seen), hidden(made, seen))


def test_a_tiled_model_loads_as_it_was(tmp_path: Path) -> None:
    made = model(TILES, side=5, name="pixel_shuffle", factor=3, pad=True)
    save_file(made.state_dict(), tmp_path / MODEL_FILE)
    projector = {"name": "pixel_shuffle", "factor": 3, "pad": True}
    card = {
        **asdict(CONFIG), "projector": projector, "channels": CHANNELS, "side": 5, "tiles": TILES.as_card(),
    }  # fmt: skip
    files.write_json(tmp_path / MODEL_CARD, card)
    seen = features(TILES.count, side=5)
    assert torch.equal(hidden(load_model(tmp_path), seen), hidden(made, seen))
