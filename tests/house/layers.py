"""The layers of the library, lowest first: exported code imports only from lower ones. Packages on one line do not
import each other.

A line names packages of `streamforge`; a module is named by itself where it stands above the sub-packages of its
package. Inside a package the numbers of the notebooks are the order: a module imports only from lower numbers.
"""

LAYERS = [
    ["core"],
    ["messages"],
    ["bus"],
    ["bus.embedded", "bus.kafka"],
    ["store"],
    ["store.sql", "store.arango"],
    ["artifacts"],
    ["jobs"],
    ["ledger"],
    ["exchange.formats"],
    ["exchange"],
    ["exchange.binance", "exchange.ccxt"],
    ["exchange.simulator"],
    ["features"],
    ["graph"],
    ["trading"],
    ["rl"],
    ["strategies"],
    ["evaluation"],
    ["evaluation.planted"],
    ["viz"],
    ["runs"],
    ["workers.targets", "workers.outcomes"],
    ["workers.runtime"],
    ["workers.loaders", "workers.connector", "workers.research", "workers.dummy"],
    ["workers.imports"],
    ["manager"],
    ["visualizer"],
    ["client"],
    ["lab"],
    ["cli"],
    ["cli.demo", "cli.data", "cli.debug", "cli.bus", "cli.calibrate"],
    ["cli.audit", "cli.backtest", "cli.dlq"],
    ["cli.main"],
]
RANKS = {name: number for number, line in enumerate(LAYERS) for name in line}
RESEARCH = {"features", "graph", "trading", "rl", "strategies", "evaluation", "viz"}
BOTH_HALVES = {"core", "messages"}  # research and platform both stand on these
