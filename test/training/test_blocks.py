"""The demo policy: its frames say what is true, short cuts compute what they replace, a kill ends nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from openvla_ros.errors import ConfigError
from openvla_ros.policy.checkpoint import read_json
from openvla_ros.policy.openvla.config import parse_config
from openvla_ros.policy.openvla.loading import load_model
from openvla_ros.policy.openvla.precision import scheme_for
from openvla_ros.policy.openvla.processor import Processor
from openvla_ros.policy.registry import load_policy
from openvla_ros.robots.description import load_robot
from openvla_ros.sim.camera import Camera
from openvla_ros.sim.expert import View, expert_action
from openvla_ros.sim.tasks import COLOURS, TASKS
from openvla_ros.sim.world import World
from openvla_ros.training.blocks.arrangements import Arranger
from openvla_ros.training.blocks.optimizer import Optimizer, orthogonal
from openvla_ros.training.blocks.packed import PackedInstructions
from openvla_ros.training.blocks.recipe import build
from openvla_ros.training.blocks.settings import BlocksSettings, load_settings
from openvla_ros.training.blocks.stages import Data
from openvla_ros.training.blocks.store import ShardFrames
from openvla_ros.training.blocks.view import Lens, points, state_vector
from openvla_ros.training.forward import ActionLogits

STAGE = {"steps": 4, "batch_size": 4, "warmup": 0, "measure_every": 2}
SMALL = {
    "sizes": {"image": 56, "dinov2": [32, 2, 2], "siglip": [16, 2, 2], "llama": [32, 48, 1, 2]},
    "render_size": [56, 56],
    "arranged_frames": 40,
    "expert_frames": 10,
    "frames_per_job": 30,
    "workers": 1,
    "threads": 1,
    "towers": STAGE,
    "policy": STAGE,
    "rounds": [{"frames": 8, "training": STAGE}],
}


class Silent:
    """A watcher that may stop a training, as Ctrl-C does, after so many steps of one of its parts."""

    def __init__(self, stop: str = "", after: int = 0) -> None:
        self._stop, self._after = stop, after
        self._now = ""
        self.begun: list[str] = []

    def begin(self, what: str, total: int) -> None:
        self._now, self._count = what, 0
        self.begun.append(what)

    def advance(self, count: int, row: dict[str, float] | None = None) -> None:
        self._count += count
        if self._now == self._stop and self._count >= self._after:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def settings() -> BlocksSettings:
    return BlocksSettings.model_validate(SMALL)


@pytest.fixture(scope="module")
def built(settings: BlocksSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("blocks") / "out"
    assert build(settings, output, Silent()) == output / "policy-1"
    return output


@pytest.fixture(scope="module")
def world() -> World:
    return World("blocks", load_robot("wx250s"))


def test_the_lens_sees_each_block_where_the_picture_shows_its_colour(world: World) -> None:
    """Hazard: towers learn positions that are mirrored, shifted or of another moment than the picture's."""
    arrange, lens = Arranger(world, np.random.default_rng(0)), Lens(world)
    seen, right = 0, 0
    with Camera(world, width=640, height=480) as camera:
        for _ in range(12):
            view = arrange()
            spots = lens.project(points(state_vector(view)[None]))[0]
            picture = camera.render().astype(int)
            for channel, (x, y) in enumerate(spots[: len(COLOURS)] * [640, 480]):
                if 0 <= x < 640 and 0 <= y < 480:
                    pixel = picture[int(y), int(x)]
                    seen += 1
                    right += bool(pixel[channel] == pixel.max() and pixel.max() > 1.5 * np.median(pixel))
    assert seen >= 30
    assert right / seen > 0.75, f"{right} of {seen}: the rest is behind the hand"


def test_arranged_moments_ask_for_everything_the_expert_does(world: World) -> None:
    """Hazard: a policy never sees the moment of grasping, holding or letting go."""
    arrange = Arranger(world, np.random.default_rng(1))
    grips, held, on_the_way = 0, 0, 0
    for _ in range(200):
        view: View = arrange()
        for task in TASKS.values():
            action = expert_action(view, task).to_array()
            assert np.isfinite(action).all()
            near = np.linalg.norm(view.blocks[task.colour].position - view.hand.position) < 0.015
            grips += bool(near and view.opening > 0.9 and action[6] == 0)
            held += bool(near and 0.5 < view.opening < 0.85 and action[6] == 0)
            on_the_way += action[6] == 1
    assert min(grips, held, on_the_way) > 30, (grips, held, on_the_way)


def test_the_same_seed_arranges_the_same_moments(world: World) -> None:
    first, second = (state_vector(Arranger(world, np.random.default_rng(5))()) for _ in range(2))
    assert np.array_equal(first, second)


def test_what_is_measured_is_never_trained_on(built: Path, world: World) -> None:
    """Hazard: a DAgger round trains on the frames that its figures come from."""
    sources = [sorted((built / "frames" / name).iterdir()) for name in ("arranged", "expert", "round-1")]
    first = Data.of(ShardFrames.open(sources[:2]), world)
    later = Data.of(ShardFrames.open(sources), world, before=first)
    assert np.array_equal(first.held_out, later.held_out)
    assert not set(later.held_out) & set(later.train)
    assert len(later.train) + len(later.held_out) == len(later.frames) == 58
    assert torch.equal(first.wanted, later.wanted[:50])


def test_packed_instructions_are_answered_as_one_at_a_time(built: Path) -> None:
    """Hazard: an instruction that sees another's words trains a policy that ignores its own."""
    base = built / "policy-1"
    config = parse_config(read_json(base / "config.json"))
    model = load_model(base, config, torch.device("cpu"), scheme_for("float32", torch.device("cpu")))
    processor = Processor(base, config)
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (2, 56, 56, 3), dtype=np.uint8))
    prompts = [processor.text.input_ids(text) for text in TASKS]
    asked = list(zip(prompts, TASKS.values(), strict=True))
    actions = torch.from_numpy(rng.integers(300, 500, (2, len(prompts), 7)))
    whole = ActionLogits(model, processor.image)
    with torch.no_grad():
        features = model.vision_backbone(whole.pixel_values(images))
        words = [prompt.tolist().index(processor.text.tokenizer.token_to_id(f"▁{t.colour}")) for prompt, t in asked]
        packed, _, named = PackedInstructions(model, prompts, words)(model, features, actions)
        assert named.shape == (2, len(TASKS), config.llama.hidden_size)
        for i, prompt in enumerate(prompts):
            ids = torch.cat([torch.from_numpy(prompt).expand(2, -1), actions[:, i, :6]], dim=1)
            alone = whole(images, ids, torch.tensor([len(prompt)] * 2), 7)
            torch.testing.assert_close(packed[:, i], alone, atol=1e-4, rtol=1e-4)


def test_muons_steps_are_orthogonal() -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 48), (1, 48, 16)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.4


def test_the_optimizer_moves_matrices_and_all_else_towards_less_loss() -> None:
    torch.manual_seed(0)
    layer = torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.Linear(8, 8)])})
    x, y = torch.randn(64, 8), torch.randn(64, 8)
    optimizer = Optimizer(layer, torch.float32)

    def loss() -> torch.Tensor:
        return torch.nn.functional.mse_loss(layer["layers"][0](x), y)

    before, bias = loss().item(), layer["layers"][0].bias.detach().clone()
    for _ in range(30):
        optimizer.step(loss(), 0.01, 0.02)
    assert loss().item() < 0.9 * before
    assert not torch.equal(bias, layer["layers"][0].bias)


def test_frames_hold_the_experts_answer_to_every_instruction(built: Path) -> None:
    frames = ShardFrames.open([[built / "frames" / "arranged" / "0000"], [built / "frames" / "expert" / "0000"]])
    assert frames.actions.shape == (40, len(TASKS), 7)
    assert frames.recent == 30
    assert frames.images(np.array([0, 35])).shape == (2, 56, 56, 3)
    assert frames.images(np.array([29, 30])).std() > 10
    # lift and put of one colour agree until the block is held, other colours do not
    assert not np.allclose(frames.actions[:, 0], frames.actions[:, 1])


def test_the_checkpoint_acts_and_survives_instructions_that_it_never_heard(built: Path) -> None:
    """Hazard: a word or colour that was not trained on crashes the policy in front of the arm."""
    policy = load_policy(str(built / "policy-1"), device="cpu", precision="float32", threads=1)
    image = np.zeros((480, 640, 3), np.uint8)
    for text in (next(iter(TASKS)), "lift the yellow block", "tanz für mich ☺"):
        prediction = policy.predict(image, text)
        assert prediction.outside_action_tokens or np.isfinite(prediction.action.to_array()).all()
    policy.close()
    statistics = json.loads((built / "policy-1" / "dataset_statistics.json").read_text())
    assert statistics["blocks_demo"]["num_transitions"] == 50 * len(TASKS)


def test_a_training_that_was_cut_off_ends_as_one_that_was_not(
    settings: BlocksSettings, built: Path, tmp_path: Path
) -> None:
    """Hazard: after a kill, stages begin again, or go on with other weights, and nobody notices."""
    output = tmp_path / "out"
    for part, after in (("frames: expert", 10), ("towers", 3), ("policy-0", 2), ("policy-1", 3)):
        with pytest.raises(KeyboardInterrupt):
            build(settings, output, Silent(part, after))
    build(settings, output, Silent())
    for policy in ("policy-0", "policy-1"):
        same = (built / policy / "model.safetensors").read_bytes() == (
            output / policy / "model.safetensors"
        ).read_bytes()
        assert same, policy


def test_other_settings_do_not_go_on(built: Path) -> None:
    with pytest.raises(ConfigError, match="seed"):
        build(BlocksSettings.model_validate({**SMALL, "seed": 1}), built, Silent())


def test_the_demos_settings_are_valid_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    demo = load_settings(root / "config" / "training" / "blocks_demo.yaml")
    assert demo.instructions == tuple(TASKS)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("towers: {steps: 0}\n")
    with pytest.raises(ConfigError, match=r"towers\.steps"):
        load_settings(wrong)
    wrong.write_text("instructions: [dance]\n")
    with pytest.raises(ConfigError, match="dance"):
        load_settings(wrong)
