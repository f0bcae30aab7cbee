"""An event for a webhook outlives the hub: killed before the receiver has answered, it comes again as the same one."""

import asyncio
import base64
import hashlib
import hmac
import pathlib
import time

import httpx

from deploy.demo.processes import Stage

SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
TAKEN_SECONDS = 25.0


class Receiver:
    """Never answers the first request, and takes all others."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.came, self.dead = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = [line.partition(": ") for line in head[1:] if line]
        headers = {name.lower(): value for name, _, value in fields}
        self.requests.append((headers, await reader.readexactly(int(headers["content-length"]))))
        self.came.set()
        if len(self.requests) == 1:
            await self.dead.wait()
        else:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
        writer.close()


async def test_a_hub_that_is_killed_sends_the_same_event_again(tmp_path: pathlib.Path) -> None:
    receiver = Receiver()
    data = str(tmp_path / "data")
    run = ["metergate-hub", "run", "--data", data, "--port", "0", "--mqtt-port", "0", "--webhook-host", "127.0.0.1"]
    with Stage(tmp_path, {}) as stage:
        async with await asyncio.start_server(receiver.serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            token = (
                await asyncio.to_thread(stage.run, ["metergate-hub", "token", "create", "t", "--data", data])
            ).split()[-1]
            hub = await asyncio.to_thread(stage.start, "hub", run, hello=True)
            headers = {"Authorization": f"Token {token}"}
            async with httpx.AsyncClient(base_url=hub.hello["rest"], headers=headers) as client:
                owner = (await client.post("/v1/organizations", json={"name": "Stadtwerke"})).json()["id"]
                body = {
                    "organization": owner, "name": "gas day", "interval": "gas_day", "within_seconds": 3600,
                    "target_percent": "99.5", "webhook_secret": SECRET,
                    "webhook_url": f"http://127.0.0.1:{port}/hook",
                }  # fmt: skip
                made = await client.post("/v1/deadlines", json=body)
                assert made.status_code == 201, made.text
                path = f"/v1/deadlines/{made.json()['id']}/notifications"
                assert (await client.post(path)).status_code == 201
            async with asyncio.timeout(TAKEN_SECONDS):
                await receiver.came.wait()
            hub.popen.kill()
            await asyncio.to_thread(hub.popen.wait)
            receiver.came.clear()
            receiver.dead.set()
            hub = await asyncio.to_thread(stage.start, "hub", run, hello=True)
            async with asyncio.timeout(TAKEN_SECONDS):
                await receiver.came.wait()
            async with httpx.AsyncClient(base_url=hub.hello["rest"], headers=headers) as client:
                until = time.monotonic() + TAKEN_SECONDS
                while (row := (await client.get(path)).json()["results"][0])["state"] != "delivered":
                    assert time.monotonic() < until, row
                    await asyncio.sleep(0.1)
    assert (row["tries"], row["last_status"]) == (2, 200)
    (first, sent), (second, again) = receiver.requests
    assert first["webhook-id"] == second["webhook-id"] == row["id"]
    assert sent == again
    signed = f"{second['webhook-id']}.{second['webhook-timestamp']}.".encode() + again
    expected = base64.b64encode(hmac.new(bytes(range(32)), signed, hashlib.sha256).digest()).decode()
    assert second["webhook-signature"] == f"v1,{expected}"
    assert SECRET not in (tmp_path / "hub.log").read_text("utf-8")
