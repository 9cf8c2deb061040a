"""evaluation/tables.py: which runs are averaged, and under what name."""

import pytest

from evaluation.evaluate import prior_and_posterior
from evaluation.over_seeds import as_text, over_seeds
from evaluation.schema import ComparedEvaluation, Evaluation
from evaluation.tables import comparison_key, tables, tables_by_key

RESULT = {"quantity": "log p(x)", "data": "Digits", "protocol": "dynamic", "num_images": 10, "num_samples": 5,
          "nll_se": 0.1, "elbo": -25.0, "rate": 5.0, "distortion": 20.0, "active_units_per_layer": [3],
          "ess_median": 2.0, "loss": None, "test_error_images": 10, "variant": "", "disentanglement": None}  # fmt: skip


def result(run, model="M2", nll=20.0, error=None, baselines=None, **more):
    known = {"checkpoint": f"{run}/checkpoints/best.ckpt", "model": model, "nll": nll, "test_error": error}
    return Evaluation(**RESULT | known | {"baselines": baselines} | more)


def checkpoint(seed, data_seed=0, model="M2", of_data=None, **options):
    data = {"num_labels": 100, "root": f"/{seed}", "seed": data_seed, **(of_data or {})}
    return {
        "model": model,
        "run": {"seed": seed, "data": "Digits"},
        "hyper_parameters": options,
        "datamodule_hyper_parameters": data,
    }


def lines(*runs):
    results, checkpoints = zip(*runs, strict=True)
    return as_text(over_seeds(results, checkpoints)).split("\n")


def test_mean_and_standard_error():
    first, second = result("a", nll=20.0, error=0.1), result("b", nll=21.0, error=0.2)
    assert lines((first, checkpoint(0)), (second, checkpoint(1)))[:-1] == [
        "Digits, protocol dynamic: log p(x) of 10 test images, mean ± standard error over seeds",
        "group  n  NLL           K  test error",
        "M2     2  20.50 ± 0.50  5  15.00% ± 5.00%",
    ]


def test_the_mean_of_calibration_errors_stands_beside_that_of_errors():
    first, second = (result(run, error=0.1, calibration_error=ece) for run, ece in (("a", 0.02), ("b", 0.04)))
    _, header, line, _ = lines((first, checkpoint(0)), (second, checkpoint(1)))
    assert header.split()[-3:] == ["test", "error", "ECE"]
    assert line.endswith("10.00% ± 0.00%  3.00% ± 1.00%")


@pytest.mark.parametrize(("other", "options"), [(1, {"z_dim": 3}), (0, {})])
def test_other_options_or_the_same_seeds_are_no_group(other, options):
    runs = (result("a"), checkpoint(0, z_dim=2)), (result("b"), checkpoint(other, **{"z_dim": 2} | options))
    assert lines(*runs) == [""]


def test_another_precision_is_no_seed():
    fine, rough = checkpoint(0), checkpoint(1) | {"training": {"trainer.precision": "bf16-mixed"}}
    assert lines((result("a"), fine), (result("b"), rough)) == [""]
    usual = checkpoint(1) | {"training": {"trainer.precision": "32-true"}}  # what older checkpoints do not say
    assert len(lines((result("a"), fine), (result("b"), usual))) == 4


def test_steps_in_one_call_are_the_same_steps():
    by_one, by_ten = (checkpoint(n) | {"training": {"steps_per_call": steps}} for n, steps in enumerate((1, 10)))
    assert len(lines((result("a"), by_one), (result("b"), by_ten))) == 4


def test_kinds_of_results_have_means_of_their_own():
    few = [result(run, nll=10.0, num_images=5) for run in "cd"]
    given = [result(run, quantity="log p(x|y)") for run in "ef"]
    runs = [
        (run, checkpoint(seed)) for group in ([result("a"), result("b")], few, given) for seed, run in enumerate(group)
    ]
    titles = [line for line in lines(*runs) if line.startswith("Digits")]
    assert [title.partition(": ")[2].partition(" test")[0] for title in titles] == [
        "log p(x) of 5",
        "log p(x) of 10",
        "log p(x|y) of 10",
    ]


def label_draw(label_seed, seed=0, **more):
    return checkpoint(seed, of_data={"label_seed": label_seed, **more})


@pytest.mark.parametrize("other", [checkpoint(0, 1), label_draw(1)])
def test_label_draws_are_seeds_too(other):
    text = lines((result("a", error=0.1), checkpoint(0, 0)), (result("b", error=0.2), other))
    assert text[0].endswith("mean ± standard error over label draws")
    assert text[2] == "M2     2  20.00 ± 0.00  5  15.00% ± 5.00%"


def test_the_default_label_seed_is_that_of_the_split():
    assert lines((result("a"), checkpoint(0, 0)), (result("b"), label_draw(0))) == [""], "one draw, twice"
    runs = [(result("a"), label_draw(0)), (result("b"), label_draw(0, seed=1)), (result("c"), label_draw(1))]
    assert lines(*runs)[2].startswith("M2     2 draws of 3 runs  ")


def test_another_number_of_labels_is_no_draw():
    runs = [(result("a"), label_draw(0)), (result("b"), label_draw(1, num_labels=600))]
    assert lines(*runs) == [""]


def test_splits_of_data_without_a_label_draw_are_seeds():
    runs = [(result(str(seed)), checkpoint(seed, seed, of_data={"num_labels": None})) for seed in range(2)]
    assert lines(*runs)[0].endswith("over seeds")


def test_each_label_draw_of_a_stack_has_its_own_m1_and_baselines_are_averaged():
    options = [{"m1": f"m1-{seed}.ckpt", "kept": [seed], "m1_options": {"z_dim": 5}} for seed in range(2)]
    runs = [
        (
            result(str(seed), "M1M2", error=0.1, baselines={"M1+SVM": 0.2 + 0.2 * seed}),
            checkpoint(seed, seed, "M1M2", **m1),
        )
        for seed, m1 in enumerate(options)
    ]
    assert [line.split("  ")[0] for line in lines(*runs)[2:-1]] == ["M1M2", "M1+SVM of M1M2"]
    assert lines(*runs)[3].endswith("30.00% ± 10.00%")


def test_runs_on_the_same_labels_count_as_one_draw():
    runs = [(0, 0, 0.1), (1, 0, 0.2), (0, 1, 0.35)]
    runs = [(result(f"{n}", error=error), checkpoint(seed, draw)) for n, (seed, draw, error) in enumerate(runs)]
    assert lines(*runs)[2] == "M2     2 draws of 3 runs  20.00 ± 0.00  5  25.00% ± 10.00%"


def test_what_the_data_gave_a_model_is_no_setting():
    runs = [(result(str(seed)), checkpoint(seed, seed, labelled_fraction=0.1 + seed / 100)) for seed in range(2)]
    assert lines(*runs)[2].startswith("M2     2  ")


def test_groups_are_named_by_what_sets_them_apart():
    runs = [
        (result(f"{z_dim}-{seed}"), checkpoint(seed, z_dim=z_dim, hidden=[8])) for z_dim in (2, 3) for seed in (0, 1)
    ]
    assert [line.split("  ")[0] for line in lines(*runs)[2:-1]] == ["M2, z_dim 2", "M2, z_dim 3"]


def test_what_a_row_does_not_have_is_a_dash():
    table = tables([result("a", error=0.25, baselines={"M1+SVM": 0.5}), result("b", "VAE")]).split("\n")
    assert table[1].split()[-2:] == ["test", "error"]
    assert [line.split()[-1] for line in table[2:5]] == ["25.00%", "50.00%", "-"]
    assert table[3].split() == ["a", "M1+SVM", *7 * ["-"], "50.00%"]


@pytest.mark.parametrize(("mean", "se", "message"), [
    (0.5, 0.1, "finds at least 0.50 ± 0.10 nats more (a) on"),
    (0.08, 0.09, "finds no more with these chains (0.08 ± 0.09 nats, a) on"),
    (-0.5, 0.1, "finds no more with these chains (-0.50 ± 0.10 nats, a) on"),
    (-0.5, None, "finds no more with these chains (-0.50 nats, a) on"),
])  # fmt: skip
def test_ais_says_by_how_much_at_least(mean, se, message):
    """It is a lower bound on log p(x) itself."""
    ais = {"ais_nll": 19.0, "ais_nll_se": 1.0, "ais_images": 5, "ais_lowers_nll": mean, "ais_lowers_nll_se": se}
    text = tables([result("a", k_hat_above=0.9, **ais)])
    assert f"AIS, itself a lower bound on log p(x), {message} the images that it was run on." in text
    assert "--ais says by how much at least" in tables([result("a", k_hat_above=0.9)])


MOVED = "rotated by up to 20 degrees"


def test_images_that_are_moved_have_a_table_of_their_own():
    text = tables([result("a"), result("b", variant=MOVED)])
    assert "Digits, protocol dynamic: log p(x)" in text
    assert f"Digits {MOVED}, protocol dynamic: log p(x)" in text


def test_versions_of_omniglot_have_tables_of_their_own_that_name_them():
    """Their numbers are of other images, and never in one comparison."""
    results = [result(data, data=data) for data in ("OMNIGLOT", "Omniglot28", "NPZ", "MNIST")]
    assert len({comparison_key(one) for one in results}) == 4
    titles = [table.title for table in tables_by_key(results)]
    assert [title.partition(", protocol")[0] for title in titles] == [
        "MNIST", "NPZ", "OMNIGLOT (Burda et al. 2015)", "Omniglot28 (resized from 105x105)",
    ]  # fmt: skip
    moved = tables([result("OMNIGLOT", data="OMNIGLOT", variant=MOVED)])
    assert moved.startswith(f"OMNIGLOT (Burda et al. 2015) {MOVED}, protocol ")


def test_content_and_pose_have_tables_of_their_own():
    affine = {"moved": MOVED, "disentanglement": {"angle_correlation": 0.81234, "kmeans_accuracy": 0.7}}
    plain = {"moved": MOVED, "disentanglement": {"kmeans_accuracy": 0.5, "angle_r2": 0.25}}
    text = tables([result("a", **affine), result("b", "VAE", **plain), result("c")])
    start = text.index(f"Digits, protocol dynamic: content and pose of all test images, {MOVED} for this")
    header, first, second = (line.split() for line in text[start:].splitlines()[1:4])
    assert header[:4] == ["run", "model", "angle", "r"]
    assert first == ["a", "M2", "0.812", "-", "-", "-", "-", "-", "-", "70.00%", "-"]
    assert second == ["b", "VAE", "-", "-", "-", "-", "-", "-", "-", "50.00%", "0.250"]
    assert "content and pose" not in tables([result("c")])


def test_a_remark_where_nothing_was_learned():
    failed = result("a", "VAE", nll=1e30, pixels_nll=26.9, active_units=5)
    collapsed = result("b", "VAE", nll=27.0, pixels_nll=26.9, active_units=0)
    good = result("c", "VAE", nll=20.0, pixels_nll=26.9, active_units=5)
    old = result("d", "VAE", nll=20.0)  # of an evaluation before these numbers
    text = tables([failed, collapsed, good, old])
    assert "Training has failed (a): its NLL is worse than 26.90" in text
    assert "The posterior has collapsed (b): no latent unit is active" in text
    assert text.count("has failed") == text.count("has collapsed") == 1


def test_a_remark_about_the_likelihood_of_an_m2_on_means():
    trained = {sampled: ComparedEvaluation(**result("a", "M1M2", nll=1e5, pixels_nll=26.9).to_dict(),
                                           options={} if sampled else {"sample_z1": False})
               for sampled in (True, False)}  # fmt: skip
    text = tables([trained[False]])
    assert "M2 was trained on means of z1 (a)" in text
    assert "Training has failed" not in text
    assert "means of z1" not in tables([trained[True]])


@pytest.mark.parametrize(("share", "step", "said"), [(1.0, 5000, True), (0.1, 5000, False), (1.0, 39, False),
                                                     (None, 5000, False)])  # fmt: skip
def test_a_remark_about_mode_collapse(share, step, said):
    text = tables([result("a", "GAN", nll=None, quantity=None, loss=0.1, duplicates=share, step=step)])
    assert ("The generator has collapsed (a): 100% of the pairs of samples are nearly identical." in text) is said


@pytest.mark.parametrize(("nll", "images", "failed"), [(29.0, 10, False), (600.0, 10, True), (29.0, 50, True)])
def test_a_few_images_that_are_harder_than_most_are_no_failure(nll, images, failed):
    text = tables([result("a", nll=nll, pixels_nll=26.9, num_images=images)])
    assert ("Training has failed" in text) is failed


def test_a_short_run_has_not_failed_because_it_is_behind_the_mean_image():
    def of(nll, step, pixels=26.9):
        known = {"pixels_nll": pixels, "active_units": 5, "step": step, "num_images": 50}
        return result("a", "VAE", nll=nll, **known)

    assert "has failed" not in tables([of(43.6, 26)])
    assert "has failed" not in tables([of(-193.1, 640, pixels=-467.6)])
    assert "has failed" in tables([of(43.6, 3900)])
    assert "has failed" in tables([of(1e10, 26)])


def layered(run, layers, **more):
    """A result of a model with a number of layers, the first of which has the most active units and the largest KL."""
    units, kl = list(range(layers, 0, -1)), [layer / 2 for layer in range(layers, 0, -1)]
    return result(run, active_units_per_layer=units, kl_per_layer=kl, **more)


def cells_of(*results):
    [table] = tables_by_key(results)
    return [dict(zip(table.columns, line, strict=True)) for line in table.lines], table.remarks


def test_a_few_layers_have_a_number_each():
    [few, single], remarks = cells_of(layered("a", 5, model="LadderVAE"), result("b", "VAE"))
    assert (few["active units"], few["KL per layer"]) == ("5+4+3+2+1", "2.5+2.0+1.5+1.0+0.5")
    assert (single["active units"], single["KL per layer"]) == ("3", "-")
    assert not remarks


@pytest.mark.parametrize(("model", "part"), [("LadderVAE", "layer"), ("DRAW", "step"), ("ofANewerVersion", "layer")])
def test_numbers_of_many_layers_are_below_the_table(model, part):
    [row], [remark] = cells_of(layered("a", 12, model=model))
    assert (row["active units"], row["KL per layer"]) == (f"78 in 12 {part}s", "0.5 to 6.0")
    assert remark == (
        f"Of each {part} (a): KL 6.0, 5.5, 5.0, 4.5, 4.0, 3.5, 3.0, 2.5, 2.0, 1.5, 1.0, 0.5; "
        "active units 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1."
    )


def test_a_layer_whose_kl_is_not_finite_is_named():
    [few, many], [remark] = cells_of(
        result("a", kl_per_layer=[1.0, None, -0.04]), result("b", kl_per_layer=[None] * 7, active_units_per_layer=None)
    )
    assert few["KL per layer"] == "1.0+not finite+0.0"
    assert many["KL per layer"] == "not finite"
    assert remark == f"Of each layer (b): KL {', '.join(['not finite'] * 7)}."


def test_prior_and_posterior_have_columns_if_one_is_not_the_usual_one():
    usual = result("a", prior="standard", posterior="diagonal")
    (table,) = tables_by_key([usual, result("b")])
    assert not {"prior", "posterior"} & set(table.columns)
    (table,) = tables_by_key([usual, result("b", prior="vamp", posterior="diagonal"), result("c")])
    assert table.columns[1:4] == ["model", "prior", "NLL ± SE"]
    assert [line[2] for line in table.lines] == ["standard", "vamp", "-"]
    (table,) = tables_by_key([result("d", prior="flow", posterior="full")])
    assert table.columns[1:4] == ["model", "prior", "posterior"]
    assert table.lines[0][2:4] == ["flow", "full"]


def test_prior_and_posterior_of_a_model_are_its_options(make_model):
    assert prior_and_posterior(make_model(prior="mixture")) == {"prior": "mixture", "posterior": "diagonal"}
    m1 = {"image_shape": (1, 8, 8), "hidden": [4], "z_dim": 4, "prior": "mixture"}
    stacked = make_model("M1M2", m1_options=m1, prior="flow", posterior="full")  # the prior of M1 is not part of it
    assert prior_and_posterior(stacked) == {"prior": "flow", "posterior": "full"}
    assert prior_and_posterior(make_model("AE")) == {}
