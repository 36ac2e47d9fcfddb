"""Does a small recommender rank better when a large one shows it its lists?

Tang and Wang, "Ranking distillation" (KDD 2018, https://arxiv.org/abs/1809.07428) let a
student score the teacher's first ten unseen items high, most where it ranks them too
low; ListNet (Cao et al., ICML 2007) compares the softmax of both over a list. Here of
one SASRec teacher (Kang and McAuley 2018, https://arxiv.org/abs/1808.09781), for a
narrow SASRec and for a matrix factorisation that knows no history. Ratings are implicit
feedback; HR, NDCG and MRR are of the last item of each user among all items.

python -m experiments.recommend            # 4 minutes on 2 cores
python -m experiments.recommend --smoke    # seconds, on ratings that it makes itself
python -m experiments.recommend --ratings ratings.dat
python -m experiments.recommend --dataset movielens/100k-ratings --least-rating 4
"""

from experiments import _field, _recommend, _run
from experiments._recommend import Config
from kdjax import report

SMOKE = Config(
    dataset=_recommend.MADE,
    seeds=(2,),
    steps=100,
    teacher_steps=100,
    teacher_learning_rate=1e-2,
    learning_rates=(3e-2,),
    teacher_width=16,
    student_width=4,
    length=6,
    listed=20,
)


def main(config: Config) -> report.Result:
    """Train teacher and students; return the table."""
    config = config.checked()
    with _run.Run("recommend", config) as run:
        split = config.sequences()
        _recommend.check_lists(split, config.listed)
        problem = _recommend.problem(config.name, split)
        field = _field.Field(run, config, problem, kinds=5, steps_per_call=25)
        large = config.recommender(
            split, config.teacher_width, dropout=config.teacher_dropout
        )
        field.teach(large, _recommend.chosen)
        train = _recommend.with_lists(problem, field.teacher, config.listed)
        small = config.recommender(split, config.student_width)
        factors = config.factorization(split)
        ranking, listwise = _recommend.ranking(config), _recommend.listwise(config)
        kinds = {
            "student alone": (small, _recommend.chosen),
            "ranking distillation": (small, ranking),
            "listwise KL": (small, listwise),
            "factorization alone": (factors, _recommend.chosen),
            "factorization, KL": (factors, listwise),
        }
        for name, (module, objective) in kinds.items():
            learner = field.learner(module)
            field.train(name, objective, learner, examples=lambda seed: train)
        return run.finish(
            field.table(
                f"Recommendation on {config.said}, all items ranked",
                "student alone",
                ("hit_rate", "ndcg", "mrr", "parameters", "flops", "latency"),
                *_recommend.notes(config),
                pairs=[
                    ("ranking distillation", "student alone"),
                    ("listwise KL", "student alone"),
                    ("factorization, KL", "factorization alone"),
                ],
            )
        )


if __name__ == "__main__":
    _run.cli(main, Config(), SMOKE)
