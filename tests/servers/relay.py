"""The program of a Proxy: carries bytes between who connects to PORT and HOST:TARGET. python relay.py PORT HOST TARGET"""

import asyncio
import sys


async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end; a broken connection is one."""
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def main(port: str, host: str, target: str) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(host, int(target))
        except OSError:  # as the server would: whoever it is connects, and is cut off
            writer.close()
            return
        await asyncio.gather(carry(reader, back), carry(there, writer))

    async with await asyncio.start_server(connected, "127.0.0.1", int(port)) as server:
        await server.serve_forever()


asyncio.run(main(*sys.argv[1:]))
