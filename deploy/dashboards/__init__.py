"""Grafana's dashboards as code: ``python -m deploy.dashboards`` writes them for chart and compose.

Each panel answers a question of an operator, is made of metrics of the catalogue, and says in its
description what to do. They are written to ``helm/coldfusion/files/dashboards``, and committed.
"""
