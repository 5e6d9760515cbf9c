"""The search service, the events it leaves behind, and the traffic that exercises it.

What belongs here: documents in, ranked documents out, and an honest record of both. What must not: judging quality (monitor), choosing a model
(evaluate, experiment, release), writing release files or talking to Git (release), anything of Dagster or settings.

Public functions, each in the module named by what it holds:

- ``app.create_app`` builds the FastAPI application; ``python -m predator_si.search`` runs it (``__main__``).
- ``service.SearchService`` answers queries: retrieve, rerank, fuse, record. ``variants.ReleaseFollower`` keeps champion and candidate as the applied
  release file wants them; ``release_file.parse_release`` and ``parse_denied`` read that file and the deny list.
- ``trial.assigned`` says who answers a request and what that exposes it to; ``answer`` has what is shown when a model fails.
- ``interleave.team_draft`` makes one list of two, ``interleave.credited_clicks`` says whose documents were clicked.
- ``shadow.ShadowQueue`` has answered requests scored again, off the user's path.
- ``ingest.IngestQueue`` takes documents; ``journal.Journal`` keeps the accepted ones; ``index_versions.IndexVersions`` publishes an index atomically.
- ``spool.EventSpool`` writes events; ``events.read_events`` reads them back with what was lost; ``rollup.roll_up`` makes hourly Parquet of them.
- ``traffic.replay`` and ``traffic.measure_latency`` send queries over HTTP; ``clicks.ClickModel`` is the simulated user.
- ``models``, ``retrieve``, ``rerank``: the model store, the hybrid index and the cross-encoder backends.

Nothing is imported here, so that reading events does not cost a web framework.
"""
