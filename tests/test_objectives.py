"""What the supervised stages minimise: control by zero is no control, padding is nothing, every leaf can learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_world
from flax import nnx

from internal_rl import build
from internal_rl.config import DiscoverConfig
from internal_rl.learning import objectives, updates

CFG = small_world.CONFIG
LAYER, KEY, STEP = CFG.model.layer, jax.random.key(3), jnp.int32(0)


def discover_cfg(**changes):
    return dataclasses.replace(CFG, discover=dataclasses.replace(CFG.discover, **changes))


@functools.cache
def discovery_gradients(embedding="sequence", gate="soft", alpha=0.0):
    """A compiled ``(params, base, batch) -> ((loss, metrics), gradients)`` of Eq. 3."""
    cfg = discover_cfg(embedding=embedding, gate=gate, alpha=alpha)
    world = small_world.small_world(cfg)
    loss = objectives.discovery(world.base_def, world.controller_def, LAYER, cfg.discover)
    gradients = jax.value_and_grad(lambda p, base, batch: loss(p, {"base": base}, batch, KEY, STEP), has_aux=True)
    return jax.jit(gradients)


def base_nll(world, batch):
    """Action NLL [B, T] of the uncontrolled base model."""
    out = jax.jit(jax.vmap(world.model()))(batch.obs)
    log_p = jax.nn.log_softmax(out.action)
    return -np.take_along_axis(np.asarray(log_p), np.asarray(batch.action)[..., None], axis=-1)[..., 0]


def controlled(world, batch, params):
    run = functools.partial(objectives.controlled, world.base_def, world.controller_def, LAYER, CFG.discover)
    return jax.jit(lambda: run(params, world.base, batch, KEY))()


def test_zero_controller_is_the_base_model_bit_for_bit(world, batch):
    zero = world.controller | {"hyper_b": jax.tree.map(jnp.zeros_like, world.controller["hyper_b"])}
    plain = base_nll(world, batch)
    np.testing.assert_array_equal(controlled(world, batch, zero).nll_BT, plain)
    assert np.abs(controlled(world, batch, world.controller).nll_BT - plain).min() > 1e-6


def test_controlled_nll_equals_a_dense_matrix_per_step(world, batch):
    """``e + U e`` at the controlled layer with ``U = B A = f_hyp(z_t)`` formed in full, then the upper blocks."""
    result = controlled(world, batch, world.controller)
    model, controller = world.model(), world.metacontroller()

    @jax.jit
    def dense(obs, code):
        states = model.init_state(CFG.env.horizon)
        e_TD, _ = model.lower(obs, states[:LAYER], 0, LAYER)
        a, b = controller.factors(code)
        e_TD = e_TD + jnp.einsum("tij,tj->ti", b @ a, e_TD)
        return jax.nn.log_softmax(model.upper(e_TD, states[LAYER:], 0, LAYER)[0].action)

    log_p = jax.vmap(dense)(batch.obs, result.code)
    slow = -np.take_along_axis(np.asarray(log_p), np.asarray(batch.action)[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(result.nll_BT, slow, atol=1e-4)


def test_discovery_loss_is_equation_3(world, batch):
    """Mean NLL plus alpha times the mean KL, over the steps that are not padding."""
    (value, metrics), _ = discovery_gradients(alpha=0.3)(world.controller, world.base, batch)
    result = controlled(world, batch, world.controller)
    alive = np.asarray(batch.alive)
    nll, kl = np.asarray(result.nll_BT)[alive].mean(), np.asarray(result.posterior.kl())[alive].mean()
    np.testing.assert_allclose([metrics["nll"], metrics["kl"]], [nll, kl], rtol=1e-5)
    np.testing.assert_allclose(value, nll + 0.3 * kl, rtol=1e-5)
    assert metrics["alpha"] == np.float32(0.3)


@pytest.mark.parametrize(("embedding", "gate"), [("sequence", "soft"), ("per_step", "soft"), ("sequence", "forced")])
def test_the_action_nll_alone_reaches_every_leaf(world, batch, embedding, gate):
    """From the true initialisation, alpha 0. A forced gate has no use for the switch, and only for it."""
    _, init = build.metacontroller(discover_cfg(embedding=embedding))
    params = jax.jit(init)(jax.random.key(0, impl="unsafe_rbg"))  # compiles faster than threefry
    _, grads = discovery_gradients(embedding, gate)(params, world.base, batch)
    for path, leaf in jax.tree_util.tree_leaves_with_path(grads):
        unused = gate == "forced" and path[0].key == "switch"
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf).max() > 0) != unused, jax.tree_util.keystr(path)


def scrambled(batch):
    """The same batch with other padding."""
    other = small_world.random_batch(seed=7)

    def swap(x, y):
        return jnp.where(batch.alive.reshape(*batch.alive.shape, *[1] * (x.ndim - 2)), x, y)

    names = ("obs", "action", "next_cell", "subgoal")
    return batch.replace(**{name: swap(getattr(batch, name), getattr(other, name)) for name in names})


@pytest.mark.parametrize("embedding", ["sequence", "per_step"])
def test_padding_never_influences_discovery(world, batch, embedding):
    """Neither the loss, nor a metric, nor a gradient."""
    run = discovery_gradients(embedding)
    one, other = (run(world.controller, world.base, b) for b in (batch, scrambled(batch)))
    jax.tree.map(np.testing.assert_array_equal, one, other)
    touched = batch.replace(action=batch.action.at[0, 0].add(1) % 4)
    assert run(world.controller, world.base, touched)[0][0] != one[0][0]


def test_padding_never_influences_prediction_or_ground_truth_control(world, batch):
    prediction = objectives.prediction(world.base_def, 0.5)
    control = objectives.ground_truth_control(world.base_def, LAYER)
    controllers = random_controllers()

    @jax.jit
    def both(batch):
        one = jax.value_and_grad(prediction, has_aux=True)(world.base, None, batch, None, None)
        return one, jax.value_and_grad(control, has_aux=True)(controllers, {"base": world.base}, batch, None, None)

    assert (scrambled(batch).obs != batch.obs).any()
    jax.tree.map(np.testing.assert_array_equal, both(batch), both(scrambled(batch)))


def random_controllers():
    subgoals, rank, width = build.subgoals(CFG), CFG.control.rank, CFG.model.width
    rng = np.random.default_rng(0)
    shapes = {"a": (subgoals, rank, width), "b": (subgoals, width, rank)}
    return {name: jnp.asarray(rng.standard_normal(shape) / 3, jnp.float32) for name, shape in shapes.items()}


def test_ground_truth_control_picks_the_dense_controller_of_the_true_subgoal(world, batch):
    """Eq. 1; zero controllers, as they start, are the base model, and learn through B."""
    control, controllers = objectives.ground_truth_control(world.base_def, LAYER), random_controllers()
    model = world.model()

    @jax.jit
    def slow(obs, subgoal):
        states = model.init_state(CFG.env.horizon)
        e_TD, _ = model.lower(obs, states[:LAYER], 0, LAYER)
        dense = (controllers["b"] @ controllers["a"])[subgoal]
        return model.upper(e_TD + jnp.einsum("tij,tj->ti", dense, e_TD), states[LAYER:], 0, LAYER)[0].action

    log_p = jax.nn.log_softmax(jax.vmap(slow)(batch.obs, batch.subgoal))
    taken = np.take_along_axis(np.asarray(log_p), np.asarray(batch.action)[..., None], axis=-1)[..., 0]
    run = jax.jit(jax.value_and_grad(lambda p: control(p, {"base": world.base}, batch, None, None)[0]))
    np.testing.assert_allclose(run(controllers)[0], -taken[np.asarray(batch.alive)].mean(), rtol=1e-5)

    start = objectives.controller_init(KEY, *controllers["a"].shape)
    assert {name: x.shape for name, x in start.items()} == {name: x.shape for name, x in controllers.items()}
    value, grads = run(start)
    np.testing.assert_allclose(value, base_nll(world, batch)[np.asarray(batch.alive)].mean(), rtol=1e-6)
    assert all(np.abs(grads["b"][g]).max() > 0 for g in range(build.subgoals(CFG)))


def test_kl_weight_waits_and_then_ramps():
    cfg = DiscoverConfig(alpha=0.3, alpha_start=0.1, ramp_begin=10, ramp_end=30)
    weights = [float(objectives.kl_weight(cfg, jnp.int32(step))) for step in (0, 10, 15, 20, 30, 99)]
    np.testing.assert_allclose(weights, [0.1, 0.1, 0.15, 0.2, 0.3, 0.3], rtol=1e-6)
    assert objectives.kl_weight(DiscoverConfig(alpha=0.17), jnp.int32(0)) == np.float32(0.17)


def test_discovery_leaves_the_base_model_bit_for_bit(world, batch):
    """Updates move every leaf of the metacontroller and none of the base model, which is no part of the state."""
    cfg = dataclasses.replace(CFG.discover, lr=1e-2)
    loss = objectives.discovery(world.base_def, world.controller_def, LAYER, cfg)
    tx = updates.optimiser(cfg)
    update = jax.jit(updates.supervised(loss, lambda key: batch, tx))
    context = {"base": jax.tree.map(jnp.copy, world.base)}
    state = updates.init(world.controller, tx, KEY)
    assert jax.tree.structure(state.params) == jax.tree.structure(world.controller)
    for _ in range(3):
        state, metrics = update(state, context)
    jax.tree.map(np.testing.assert_array_equal, context["base"], world.base)
    for (path, new), old in zip(
        jax.tree_util.tree_leaves_with_path(state.params), jax.tree.leaves(world.controller), strict=True
    ):
        assert (new != old).any(), jax.tree_util.keystr(path)
    assert metrics["grad_norm"] > 0 and nnx.merge(world.base_def, context["base"]).depth == CFG.model.depth
