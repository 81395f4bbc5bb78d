"""Every public function of research with an example call, and the kind of each argument that carries data or settings."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from kinds import Kind, choice, count, named, number, numbers, timed, times, unordered_times, without

from streamforge.evaluation import metrics, overfitting, permutation, portfolio, splits
from streamforge.evaluation.planted import hints as planted_hints
from streamforge.evaluation.planted import lead as planted_lead
from streamforge.evaluation.planted import leaks, rule
from streamforge.evaluation.planted import noise as planted_noise
from streamforge.evaluation.planted import regimes as planted_regimes
from streamforge.evaluation.planted import symmetric as planted_symmetric
from streamforge.features import books, decimals, frame, indicators, program, trades, volume_by_price
from streamforge.features.enricher import CANDLE_COLUMNS, Enricher
from streamforge.graph import relations, snapshots, train
from streamforge.rl import env, markets, observation, replay
from streamforge.rl.policy import Policy, policy_shapes
from streamforge.trading import account, baselines, costs, engine
from streamforge.trading.costs import Costs
from streamforge.viz import charts, heatmap

HOUR, ROWS, WIDE = 3_600_000, 40, 140
rng = np.random.default_rng(0)


def _exact(values: np.ndarray) -> np.ndarray:
    "Rounded so that float32 holds the same numbers."
    return np.round(values * 64) / 64


TIMES = 1_640_995_200_000 + np.arange(ROWS) * HOUR
LONG = 1_640_995_200_000 + np.arange(WIDE) * HOUR
CLOSE = _exact(100 + np.cumsum(rng.normal(0, 0.5, ROWS)))
CLOSES = np.column_stack([CLOSE, CLOSE[::-1]])
ACTIONS = rng.integers(0, 3, ROWS).astype(float)
POSITION = (rng.random(ROWS) < 0.5).astype(float)
EQUITY = _exact(1 + 0.25 * rng.random(ROWS))
RETURNS = _exact(rng.normal(0, 0.5, ROWS))
WALK = _exact(100 + np.cumsum(rng.normal(0, 0.5, WIDE)))
CANDLES = dict(open_time=LONG, open=WALK, high=WALK + 1, low=WALK - 1, close=WALK, volume=np.ones(WIDE))
PANEL = frame.panel_of({"A": CANDLES, "B": CANDLES | {"close": WALK + 0.5}})
TABLE = PANEL.indicators[:, 0]
CONFIG = markets.agent_config(PANEL, window=2)
POLICY = Policy(
    CONFIG, {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in policy_shapes(CONFIG).items()}
)
HELD = engine.backtest(CLOSES, CLOSES, np.full(CLOSES.shape, engine.BUY))
CORRELATIONS = _exact(np.array([[1.0, 0.5, -0.75], [0.5, 1.0, 0.25], [-0.75, 0.25, 1.0]]))
BOOK = [np.array([[99.5, 1.0], [99.0, 2.0]]), np.array([[100.5, 1.5], [101.0, 2.5]])]
IDS = np.arange(ROWS).astype(float)
LABEL = (rng.random(ROWS) < 0.5).astype(float)
SCORE = np.linspace(0, 1, ROWS)


@dataclass(frozen=True)
class Door:
    "A function, the arguments of a valid call, and the kinds of those that are tried."

    call: Callable[..., object]
    arguments: dict[str, object]
    kinds: dict[str, Kind]


def history(**columns: object) -> np.ndarray:
    return Enricher().history(*(columns[name] for name in CANDLE_COLUMNS))


def panel_of(**columns: object) -> frame.Panel:
    return frame.panel_of({"A": columns})


def pooled(open_time: object, equity: object) -> object:
    return engine.pooled([open_time, TIMES], [equity, EQUITY])


def align_account(rows: object, n_rows: object) -> object:
    return engine.align_account(rows, engine.Backtest(EQUITY, POSITION, np.zeros(ROWS, np.int8)), n_rows)


PLANTED = {"markets": 3, "candles": 40, "seed": 1}
PLANTED_KINDS = {"markets": count(1), "candles": count(2), "seed": count()}


def planted(generator: Callable[..., object]) -> Callable[..., object]:
    "A generator of planted markets that gives its prices."

    def prices(**arguments: object) -> object:
        return generator(**arguments).candles

    return prices


def market_history(open: object, close: object, features: object) -> object:
    return vars(observation.MarketHistory("A", TIMES, open, close, features, ("a", "b")))


def market_for(open: object, close: object, features: object) -> object:
    return vars(markets.market_for(POLICY, "A", LONG, open, close, features))


def liquidity_map(timestamp: object, price: object, quantity: object) -> object:
    side = np.array(["bid", "ask"] * (ROWS // 2))
    return heatmap.liquidity_map({"timestamp": timestamp, "side": side, "price": price, "quantity": quantity})


def volume_profile(open_time: object, price: object, buy_volume: object, sell_volume: object) -> object:
    rows = {"open_time": open_time, "price": price, "buy_volume": buy_volume, "sell_volume": sell_volume}
    return heatmap.volume_profile({k: v[:ROWS] for k, v in CANDLES.items()}, rows)


def candlestick(**columns: object) -> object:
    return charts.candlestick(columns)


def lines(open_time: object, values: object, rows: object) -> object:
    return charts.lines(open_time, {"a": values, "b": np.ones(ROWS)}, rows)


def equity_curves(equity: object, open_time: object) -> object:
    return charts.equity_curves({"a": equity}, open_time)


def chain(equity: object) -> object:
    return portfolio.chain([portfolio.Curve(open_time=TIMES.tolist(), equity=equity, traded=0.0, exposure=0.0)])


PRICE, FREE, HOLES = numbers(positive=True), numbers(), numbers(nan=True)
PLOTTED = numbers(nan=True, inf=True)  # what is not finite leaves a gap
POSITIVE_FREE = without(numbers(positive=True, any_length=True), "one number")
# any order: a chart draws its points where they are, a candle's volume is summed wherever its trades stand
WHOLE = without(numbers(), "one number")
CELL = dict.fromkeys(("open", "high", "low", "close"), numbers(positive=True))
TRADE = {
    "trade_id": IDS,
    "price": CLOSE,
    "quantity": np.ones(ROWS),
    "timestamp": TIMES,
    "is_buyer_maker": LABEL,
}
TRADE_KINDS = {
    "trade_id": numbers(),
    "price": numbers(positive=True),
    "quantity": without(numbers(positive=True), "zero"),  # a trade of no quantity is skipped
    "timestamp": unordered_times(),
    "is_buyer_maker": without(numbers(), "booleans"),
}
ORDERED = TRADE_KINDS | {"timestamp": without(times(), "repeated")}

DOORS = {
    "metrics.returns": Door(
        metrics.returns, {"equity": EQUITY}, {"equity": without(PRICE, "a row less", "a row more")}
    ),
    "metrics.drawdown": Door(
        metrics.drawdown, {"equity": EQUITY}, {"equity": without(PRICE, "a row less", "a row more")}
    ),
    "metrics.performance": Door(
        metrics.performance,
        {"equity": EQUITY, "position": POSITION, "periods_per_year": 365.0},
        {"equity": PRICE, "position": FREE, "periods_per_year": number(above=0)},
    ),
    "metrics.periods_per_year": Door(metrics.periods_per_year, {"interval": "1h"}, {"interval": choice()}),
    "metrics.volatility_by_timeframe": Door(
        metrics.volatility_by_timeframe,
        {"open_time": TIMES, "price": CLOSE, "interval": "1h", "timeframes": ("1h", "4h")},
        {"open_time": times(), "price": PRICE, "interval": choice(), "timeframes": without(choice(), "empty")},
    ),
    "overfitting.probabilistic_sharpe": Door(
        overfitting.probabilistic_sharpe,
        {"sharpe": 0.1, "periods": 50, "benchmark": 0.0, "skew": 0.1, "kurtosis": 3.0},
        {
            "sharpe": number(),
            "periods": count(),
            "benchmark": number(),
            "skew": number(),
            "kurtosis": number(),
        },
    ),
    "overfitting.sharpe_standard_error": Door(
        overfitting.sharpe_standard_error,
        {"sharpe": 0.1, "periods": 50, "skew": 0.1, "kurtosis": 3.0},
        {"sharpe": number(), "periods": count(), "skew": number(), "kurtosis": number()},
    ),
    "overfitting.expected_best": Door(
        overfitting.expected_best,
        {"trials": 10, "variance": 0.5},
        {"trials": number(least=1, most=1e15), "variance": number(least=0)},
    ),
    "overfitting.deflated_sharpe": Door(
        overfitting.deflated_sharpe,
        {"returns": RETURNS, "trials": 10, "variance": 0.01},
        {
            "returns": without(FREE, "a row less", "a row more"),
            "trials": number(least=1, most=1e15),
            "variance": number(least=0),
        },
    ),
    "splits.walk_forward_splits": Door(
        splits.walk_forward_splits,
        {"n_rows": 200, "n_folds": 2, "first_train": 0.5, "test": 0, "train": 20, "val": 5, "purge": 1, "embargo": 2},
        {
            "n_rows": count(1),
            "n_folds": count(1),
            "first_train": number(least=0, most=1),
            **dict.fromkeys(("test", "train", "val", "purge", "embargo"), count()),
        },
    ),
    "splits.consecutive": Door(
        splits.consecutive,
        {"span": (0, 100), "shares": np.array([0.5, 0.25, 0.25]), "purge": 2},
        {"shares": POSITIVE_FREE, "purge": count()},
    ),
    "splits.purged_kfold": Door(
        splits.purged_kfold,
        {"n_rows": 60, "n_folds": 3, "purge": 1, "embargo": 2},
        {"n_rows": count(1), "n_folds": count(1), "purge": count(), "embargo": count()},
    ),
    "portfolio.portfolio": Door(
        portfolio.portfolio, {"open_time": TIMES, "result": HELD, "costs": Costs()}, {"open_time": times()}
    ),
    "portfolio.random_portfolios": Door(
        portfolio.random_portfolios,
        {"open_time": TIMES, "open": CLOSES, "close": CLOSES, "agent": HELD, "costs": Costs(), "n": 3, "seed": 1},
        {
            "open_time": times(),
            "open": timed(PRICE, TIMES),
            "close": timed(PRICE, TIMES),
            "n": count(),
            "seed": count(),
        },
    ),
    "portfolio.chain": Door(chain, {"equity": EQUITY}, {"equity": PRICE}),
    "trading.backtest": Door(
        engine.backtest,
        {"open": CLOSE, "close": CLOSE, "actions": ACTIONS, "cash": 2.0},
        {
            "open": PRICE,
            "close": PRICE,
            "actions": FREE,
            "cash": number(above=0),
        },
    ),
    "trading.as_costs": Door(costs.as_costs, {"costs": Costs()}, {"costs": choice()}),
    "trading.check_prices": Door(engine.check_prices, {"open": CLOSE, "close": CLOSE}, {"open": PRICE, "close": PRICE}),
    "trading.pooled": Door(
        pooled, {"open_time": TIMES, "equity": EQUITY}, {"open_time": times(), "equity": timed(PRICE, TIMES)}
    ),
    "trading.align_account": Door(align_account, {"rows": np.arange(ROWS), "n_rows": ROWS + 9}, {"n_rows": count()}),
    "trading.cash": Door(baselines.cash, {"open": CLOSE, "close": CLOSE}, {"open": PRICE, "close": PRICE}),
    "trading.buy_and_hold": Door(
        baselines.buy_and_hold, {"open": CLOSE, "close": CLOSE}, {"open": PRICE, "close": PRICE}
    ),
    "noise.random_walk": Door(
        planted(planted_noise.random_walk),
        PLANTED | {"volatility": 0.0625, "correlation": 0.25},
        PLANTED_KINDS | {"correlation": number(least=-0.5, most=1)},
    ),
    "noise.garch": Door(
        planted(planted_noise.garch),
        PLANTED | {"correlation": 0.25, "alpha": 0.125, "beta": 0.5},
        PLANTED_KINDS | {"alpha": number(least=0), "beta": number(least=0)},
    ),
    "regimes.drift_regimes": Door(
        planted(planted_regimes.drift_regimes),
        PLANTED | {"drift": 0.0625, "life": 8.0},
        PLANTED_KINDS | {"drift": number(least=0, most=0.1), "life": number(least=2)},
    ),
    "lead.lead_lag": Door(
        planted(planted_lead.lead_lag),
        PLANTED | {"correlation": 0.25, "strength": 0.5},
        PLANTED_KINDS | {"correlation": number(least=-0.5, most=1), "strength": number(least=-1, most=1)},
    ),
    "symmetric.even_signal": Door(
        planted(planted_symmetric.even_signal),
        PLANTED | {"volatility": 0.0625, "drift": 0.03125},
        PLANTED_KINDS | {"drift": number(least=0, most=0.0625)},
    ),
    "hints.hints": Door(
        planted(planted_hints.hints),
        PLANTED | {"drift": 0.0625, "lag": 3, "every": 8.0},
        PLANTED_KINDS | {"drift": number(least=0, most=0.1), "lag": count(1, 39), "every": number(least=1)},
    ),
    "hints.cost_trap": Door(
        planted(planted_hints.cost_trap),
        PLANTED | {"volatility": 0.0625, "drift": 0.03125},
        PLANTED_KINDS | {"drift": number(least=0, most=0.0625)},
    ),
    "leaks.planted_leaks": Door(
        lambda training: [leak.kind for leak in leaks.planted_leaks(training)],
        {"training": 50},
        {"training": count(30)},
    ),
    "rule.best_rule": Door(
        lambda expected: rule.best_rule(expected).rule,
        {"expected": _exact(rng.normal(0, 0.5, (ROWS, 2)))},
        {"expected": numbers(any_length=True)},
    ),
    "rule.rule_actions": Door(
        lambda expected: rule.rule_actions(expected, rule.Rule(0.25, -0.25)),
        {"expected": RETURNS},
        {"expected": without(numbers(any_length=True), "an axis more", "one number")},  # of any shape
    ),
    "permutation.p_value": Door(
        permutation.p_value,
        {"observed": 0.5, "null": RETURNS, "tolerance": 1e-9},
        {"observed": number(), "null": numbers(any_length=True), "tolerance": number(least=0)},
    ),
    "trading.random_actions": Door(
        baselines.random_actions,
        {"n_candles": 50, "n_agents": 2, "turnover": 0.25, "exposure": 0.5, "seed": 1},
        {
            "n_candles": count(1),
            "n_agents": count(),
            "turnover": number(least=0, most=1),
            "exposure": number(least=0, most=1),
            "seed": count(),
        },
    ),
    "trading.random_agents": Door(
        baselines.random_agents,
        {"open": CLOSE, "close": CLOSE, "turnover": 0.25, "exposure": 0.5, "n": 2, "seed": 1},
        {
            "open": PRICE,
            "close": PRICE,
            "turnover": number(least=0, most=1),
            "exposure": number(least=0, most=1),
            "n": count(),
            "seed": count(),
        },
    ),
    "trading.named": Door(account.named, {"account": np.arange(9.0)}, {}),
    "features.features": Door(
        frame.features,
        {"close": WALK, "indicators": TABLE},
        {"close": numbers(positive=True, nan=True), "indicators": named(HOLES, indicators.INDICATORS)},
    ),
    "features.slots_closed_in": Door(
        frame.slots_closed_in,
        {"open_time": TIMES, "interval": "1h", "close_time": TIMES + HOUR - 1},
        {"open_time": unordered_times(), "interval": without(choice(), "empty"), "close_time": unordered_times()},
    ),
    "features.panel_of": Door(panel_of, CANDLES, {"open_time": times(), **CELL, "volume": without(FREE, "negative")}),
    "features.Enricher.history": Door(history, CANDLES, {"open_time": times(), **CELL, "volume": FREE}),
    "features.Scaler": Door(
        frame.Scaler.fit, {"features": CLOSES}, {"features": without(HOLES, "an axis more", "a row less", "a row more")}
    ),
    "features.price_steps": Door(
        decimals.price_steps,
        {"price": CLOSE, "step": "0.5"},
        {"price": without(FREE, "a row less", "a row more", "empty"), "step": choice()},
    ),
    "features.step_edges": Door(
        decimals.step_edges,
        {"steps": np.arange(5.0), "step": "0.5"},
        {"steps": without(FREE, "a row less", "a row more", "empty"), "step": choice()},
    ),
    "features.imbalance": Door(
        books.imbalance,
        {"bids": BOOK[0], "asks": BOOK[1], "levels": 2},
        {
            "bids": without(numbers(positive=True), "a row less", "a row more", "empty"),
            "asks": without(numbers(positive=True), "a row less", "empty"),
            "levels": count(1),
        },
    ),
    "features.microprice": Door(
        books.microprice,
        {"bids": BOOK[0], "asks": BOOK[1]},
        {
            "bids": without(numbers(positive=True), "a row less", "empty"),
            "asks": without(numbers(positive=True), "a row less", "empty"),
        },
    ),
    "features.liquidity": Door(
        books.liquidity,
        {"bids": BOOK[0], "asks": BOOK[1], "step": "0.5"},
        {
            "bids": without(numbers(positive=True), "a row less", "empty"),
            "asks": without(numbers(positive=True), "a row less", "empty"),
            "step": choice(),
        },
    ),
    "features.parse_indicator": Door(indicators.parse_indicator, {"name": "rsi_14"}, {"name": choice()}),
    "features.check_indicators": Door(indicators.check_indicators, {"names": ("rsi_14", "obv")}, {"names": choice()}),
    "features.warmup": Door(indicators.warmup, {"names": ("rsi_14", "obv")}, {"names": choice()}),
    "features.parse_indicators": Door(
        indicators.parse_indicators, {"text": "rsi_14, obv"}, {"text": without(choice(), "empty")}
    ),
    "features.program": Door(program.program, {"names": ("rsi_14", "obv")}, {"names": choice()}),
    "features.trade_columns": Door(trades.trade_columns, TRADE, TRADE_KINDS),
    "features.trade_open_times": Door(
        trades.trade_open_times,
        {"timestamp": TIMES, "interval_ms": HOUR},
        {"interval_ms": count(1)},
    ),
    "features.candles_of_trades": Door(
        trades.candles_of_trades, TRADE | {"interval_ms": 4 * HOUR}, ORDERED | {"interval_ms": count(1)}
    ),
    "features.volume_by_price": Door(
        volume_by_price.volume_by_price,
        TRADE | {"interval_ms": 4 * HOUR, "step": "0.5"},
        ORDERED | {"interval_ms": count(1), "step": choice()},
    ),
    "graph.log_returns": Door(
        relations.log_returns,
        {"close": CLOSES},
        {"close": without(HOLES, "a row less", "a row more", "empty")},
    ),
    "graph.correlations": Door(
        relations.correlations,
        {"returns": CLOSES},
        {"returns": without(HOLES, "a row less", "a row more", "empty")},
    ),
    "graph.edges": Door(
        relations.edges,
        {"corr": CORRELATIONS, "k": 2, "threshold": 0.25},
        {"corr": without(HOLES, "empty"), "k": count(1), "threshold": number(least=0, most=1)},
    ),
    "graph.build": Door(
        snapshots.build,
        {"panel": PANEL, "window": 10, "stride": 3, "k": 1, "threshold": 0.25},
        {"window": count(3), "stride": count(1), "k": count(1), "threshold": number(least=0, most=1)},
    ),
    "graph.labels": Door(snapshots.labels, {"panel": PANEL, "horizon": 3}, {"horizon": count(1)}),
    "graph.split": Door(
        snapshots.split,
        {"n_rows": 100, "train": 0.5, "val": 0.25, "first": 5},
        {"n_rows": count(1), "train": number(above=0, most=1), "val": number(above=0, most=1), "first": count()},
    ),
    "graph.samples": Door(
        snapshots.samples,
        {"rows": slice(0, 50), "window": 5, "horizon": 2, "stride": 2},
        {"window": count(), "horizon": count(), "stride": count(1)},
    ),
    "graph.auc": Door(train.auc, {"label": LABEL, "score": CLOSE}, {"label": FREE, "score": FREE}),
    "graph.probability_scores": Door(
        train.probability_scores, {"label": LABEL, "probability": SCORE}, {"label": FREE, "probability": FREE}
    ),
    "rl.one_action": Door(env.one_action, {"action": 2}, {"action": without(count(0, 2), "a list")}),
    "rl.standardise": Door(
        observation.standardise,
        {"features": CLOSES, "mean": np.zeros(2), "std": np.ones(2)},
        {"features": without(PLOTTED, "a row less", "a row more", "empty")},
    ),
    "rl.MarketHistory": Door(
        market_history,
        {"open": CLOSE, "close": CLOSE, "features": CLOSES},
        {"open": timed(PRICE, TIMES), "close": timed(PRICE, TIMES), "features": named(PLOTTED, ("a", "b"))},
    ),
    "rl.market_for": Door(
        market_for,
        {"open": WALK, "close": WALK, "features": markets.agent_features(PANEL)[:, 0].astype(float)},
        {"open": timed(PRICE, LONG), "close": timed(PRICE, LONG), "features": named(PLOTTED, CONFIG.features)},
    ),
    "rl.feature_order": Door(markets.feature_order, {"names": ("log_return",)}, {}),
    "rl.agent_features": Door(
        markets.agent_features,
        {"panel": PANEL, "probability": np.full(PANEL.close.shape, 0.25)},
        {"probability": HOLES},
    ),
    "rl.agent_config": Door(
        markets.agent_config,
        {"panel": PANEL, "probability": np.full(PANEL.close.shape, 0.25), "window": 4},
        {"probability": HOLES, "window": count(1)},
    ),
    "rl.replay_policy": Door(
        replay.replay_policy,
        {"policy": POLICY, "market": markets.agent_markets(CONFIG, PANEL)[0], "start": 60},
        {"start": count(0, WIDE - 1)},
    ),
    "rl.replay_panel": Door(
        replay.replay_panel, {"policy": POLICY, "panel": PANEL, "start": 60}, {"start": count(0, WIDE - 1)}
    ),
    "rl.EnvConfig": Door(env.EnvConfig, {"window": 4, "episode": 9}, {"window": count(1), "episode": count(1)}),
    "viz.lines": Door(
        lines,
        {"open_time": TIMES, "values": CLOSE, "rows": 2},
        {"open_time": unordered_times(), "values": PLOTTED, "rows": count(1)},
    ),
    "viz.candlestick": Door(
        candlestick,
        {k: v for k, v in CANDLES.items() if k != "volume"},
        {"open_time": unordered_times(), **dict.fromkeys(("open", "high", "low", "close"), PLOTTED)},
    ),
    "viz.equity_curves": Door(
        equity_curves, {"equity": EQUITY, "open_time": TIMES}, {"equity": PRICE, "open_time": unordered_times()}
    ),
    "viz.liquidity_map": Door(
        liquidity_map,
        {"timestamp": TIMES, "price": CLOSE, "quantity": np.ones(ROWS)},
        {"timestamp": unordered_times(), "price": without(FREE, "text"), "quantity": without(FREE, "text")},
    ),
    "viz.volume_profile": Door(
        volume_profile,
        {"open_time": TIMES, "price": CLOSE, "buy_volume": np.ones(ROWS), "sell_volume": np.ones(ROWS)},
        {
            "open_time": unordered_times(),
            "price": without(FREE, "text"),
            "buy_volume": without(FREE, "text"),
            "sell_volume": without(FREE, "text"),
        },
    ),
    "viz.relation_graph": Door(
        charts.relation_graph,
        {
            "symbols": ["A", "B", "C"],
            "edges": np.array([[0, 1], [1, 2]]),
            "weights": np.array([0.5, -0.25]),
            "values": np.array([0.5, 0.25, 0.75]),
        },
        {"weights": PLOTTED, "values": PLOTTED},
    ),
}

OBJECTS = "takes objects of the library, which are checked where they are made"
FILES = "takes files or documents; what they hold is checked where it is read"
RESAMPLED = "resamples or trades again; what it refuses is tried in its notebook"
FUNCTIONS = "takes a function; its settings are tried in its notebook"
STORED = "asks the store or the artifacts; names and ranges are checked there"
NOT_TRIED = {
    **dict.fromkeys(("audit", "audit_columns", "audit_features", "audit_labels", "audit_pipeline"), FUNCTIONS),
    "load_function": "takes a name; what it refuses is tried in its notebook",
    **dict.fromkeys(("market_features", "market_labels", "small_pipeline", "audit_planted", "sample_panel"), OBJECTS),
    "nearest": "takes sums that `add_amounts` made",
    "kernel": "a decorator",
    **dict.fromkeys(("generators", "normals", "planted_of", "oracle_backtest", "log_costs", "oracle_share"), OBJECTS),
    **dict.fromkeys(
        ("candle_returns", "expects_nothing", "regime_filter", "lead_prediction", "size_prediction"), OBJECTS
    ),
    **dict.fromkeys(("hint_prediction", "reversal_prediction"), OBJECTS),
    "median_move": "takes what `even_signal` has checked",
    "find_indicator": "returns None for what is no indicator",
    **dict.fromkeys(("stack", "shapes", "policy_shapes", "spaces_of", "edge_rows", "disjoint", "pool_of"), OBJECTS),
    **dict.fromkeys(("stretch", "probabilities", "fit", "baselines", "train_gnn", "make_ppo", "train_ppo"), OBJECTS),
    **dict.fromkeys(("graph_columns", "model_graphs", "stretches", "all_logistic", "boosting", "graph_worth"), OBJECTS),
    **dict.fromkeys(
        (
            "agent_markets",
            "closed_out",
            "measure",
            "combine",
            "compare",
            "join_trainings",
            "mean_metrics",
        ),
        OBJECTS,
    ),
    **dict.fromkeys(
        (
            "styled",
            "result_rows",
            "result_figure",
            "report_page",
            "html_table",
            "offline_page",
            "best",
            "fold_job",
            "plan_folds",
        ),
        OBJECTS,
    ),
    **dict.fromkeys(
        ("pack_model", "unpack_model", "from_named", "panel_files", "panel_tables", "panel_from_files"), FILES
    ),
    **dict.fromkeys(("read_result", "write_result", "read_parameters", "fold_key", "fold_folder", "run_fold"), FILES),
    **dict.fromkeys(("fold_inputs", "other_inputs"), FILES),
    **dict.fromkeys(("check_parameters", "run_notebook", "write_report", "pipelines_dir"), FILES),
    **dict.fromkeys(("block_length", "bootstrap_interval", "return_interval", "sharpe_interval"), RESAMPLED),
    **dict.fromkeys(("difference_interval", "auc_interval", "auc_difference_interval"), RESAMPLED),
    **dict.fromkeys(("backtest_overfitting", "superior", "minimum_track_record", "trial_variance"), RESAMPLED),
    **dict.fromkeys(("cost_curve", "delay_curve", "by_regime", "decisions_of", "trial_of", "deflated"), RESAMPLED),
    **dict.fromkeys(("null_distribution", "null_distributions", "permute"), RESAMPLED),
    **dict.fromkeys(("unskilled_test", "oracle_test", "noise_coverage"), RESAMPLED),
    "binomial_rate": "takes two counts; what it refuses is tried in its notebook",
    **dict.fromkeys(("calibration_jobs", "check_calibration", "calibration_table"), OBJECTS),
    **dict.fromkeys(("calibrate", "run_job", "job_file", "read_job"), FILES),
    **dict.fromkeys(("join", "timing_verdict", "null_band"), OBJECTS),
    **dict.fromkeys(("thin_rows", "shorten", "verdict_of", "mean_interval", "ratio_per_period"), OBJECTS),
    **dict.fromkeys(("record_trial", "trials", "count_trials"), STORED),
    **dict.fromkeys(("count_filled", "read_panel", "freeze", "load_panel", "publish", "load_model"), STORED),
    **dict.fromkeys(("experiment", "experiments", "load_experiment", "check_agent", "walk_forward"), STORED),
}
