"""Text for every report of `data`. Each module registers its renderers with `as_text`."""

from tvmconv.reports.render import build as build
from tvmconv.reports.render import capability as capability
from tvmconv.reports.render import comparison as comparison
from tvmconv.reports.render import latency as latency
from tvmconv.reports.render import quantization as quantization
from tvmconv.reports.render import simulation as simulation
from tvmconv.reports.render import tuning as tuning
