"""Proofreaders and readers over HTTP, through two servers of one store; then one server is killed with edits in flight.

Every answer to a reader is one state of those that the mutation log goes through, never the half of a mutation; every
edit that was answered is in the log, and the log, replayed, gives what is read.
"""

import contextlib
import http.client
import json
import random
import threading
import time

import numpy as np

import dvid_dask
from tests.datatypes.labelmap.editors import GRID, SUPERVOXELS, prepare, replay
from tests.datatypes.labelmap.reads import check_index, check_lists, check_mapping, check_voxels

from .conftest import server_process
from .labelmap_reads import xyz

FEW = SUPERVOXELS[:10]
WHOLE = f"raw/0_1_2/{xyz(GRID.shape)}/{xyz(GRID.offset)}"


class Http:
    """One kept connection to an instance."""

    def __init__(self, server, path):
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        self.path = path

    def __call__(self, method, keyword, body=None):
        data = None if body is None else json.dumps(body)
        self.connection.request(method, f"{self.path}/{keyword}", data)
        answer = self.connection.getresponse()
        return answer.status, answer.read()


def edit(call, rng, answered):
    """One random edit; notes the mutation id of its answer."""
    bodies = sorted({b for b in json.loads(call("GET", "mapping", FEW)[1]) if b})
    if len(bodies) > 3 and rng.random() < 0.6:
        status, content = call("POST", "merge", rng.sample(bodies, 2))
    else:
        body = rng.choice(bodies)
        status, content = call("GET", f"supervoxels/{body}")
        svs = json.loads(content) if status == 200 else [1]
        status, content = call("POST", f"cleave/{body}", rng.sample(svs, max(1, len(svs) // 2)))
    assert status in (200, 400), content
    if status == 200:
        answered.append(json.loads(content)["MutationID"])


def read(call, rng, seen):
    """What one answer says of the bodies of all supervoxels."""
    kind = rng.choice(["mapping", "raw", "sizes", "listlabels"])
    if kind == "mapping":
        seen.append(tuple(json.loads(call("GET", "mapping", SUPERVOXELS)[1])))
    elif kind == "raw":
        voxels = np.frombuffer(call("GET", WHOLE)[1], "<u8").reshape(GRID.shape)
        seen.append(tuple(voxels[4::8, 4::8, 4::8][:, :, :-2].reshape(-1).tolist()))
    elif kind == "sizes":
        sizes = json.loads(call("GET", "sizes?supervoxels=true", SUPERVOXELS)[1])
        assert sizes == [512] * len(SUPERVOXELS)
    else:
        listed = np.frombuffer(call("GET", "listlabels?sizes=true")[1], "<u8").reshape(-1, 2)
        assert int(listed[:, 1].sum()) == 512 * len(SUPERVOXELS)


def test_readers_and_proofreaders_of_two_servers_and_a_kill(tmp_path):
    store = str(tmp_path / "store")
    model = prepare(store)
    path = f"/api/node/{model.uuid}/seg"
    answered, seen, failed = [], [], []
    killed = threading.Event()

    def forever(server, step, seed, notes):
        rng, call = random.Random(seed), Http(server, path)
        try:
            while not killed.is_set():
                step(call, rng, notes)
        except (OSError, http.client.HTTPException) as e:
            if not killed.is_set():
                failed.append(e)
        except BaseException as e:
            failed.append(e)

    with contextlib.ExitStack() as held:
        servers = [held.enter_context(server_process(store)) for _ in range(2)]
        tasks = [(s, edit, n, answered) for n, s in enumerate((servers[0], servers[0], servers[1]))]
        tasks += [(s, read, 10 + n, seen) for n, s in enumerate(servers)]
        running = [threading.Thread(target=forever, args=task) for task in tasks]
        for t in running:
            t.start()
        deadline = time.monotonic() + 60
        while len(answered) < 60 and not failed and time.monotonic() < deadline:
            time.sleep(0.02)
        killed.set()
        for server in servers:
            server.popen.kill()
        for t in running:
            t.join(60)
    assert not failed, failed
    assert len(answered) >= 60
    with dvid_dask.open(store, compact="never") as ds:
        assert ds.check().ok
        seg = ds[model.uuid]["seg"]
        records = list(seg.mutations())
        ids = [r["MutationID"] for r in records]
        assert len(set(ids)) == len(ids)
        assert set(answered) <= set(ids)
        assert len(ids) <= len(answered) + 3  # an edit in flight for each proofreader
        passed = {tuple(map(model.body, SUPERVOXELS))}
        for record in records:
            replay(model, [record])
            passed.add(tuple(map(model.body, SUPERVOXELS)))
        assert set(seen) <= passed
        assert len(set(seen)) > 3
        model.ids.next, model.max_label = seg.next_labels.next, seg.max_label()
        model.stamps = {b: (h.mutation, h.user, h.app) for b in model.bodies() for h in [seg.header(b).stamp]}
        for check in (check_voxels, check_lists, check_mapping, check_index):
            check(seg, model)
        assert list(seg.verify()) == []
