"""An S3 server on loopback (moto), and the proof that it honours conditional puts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tests.chaos.process import Process, wait_until
from tests.chaos.server import free_port

BUCKET = "chaos"


class S3Server:
    """moto's server in a process of its own; everything is kept in its memory."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = Process(command, folder / "s3.log", **_KEYS)
        wait_until(self._answers, 30.0, "the S3 server to answer")

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach this server through obstore."""
        return {**_KEYS, "AWS_ENDPOINT": f"http://127.0.0.1:{self.port}", "AWS_ALLOW_HTTP": "true"}

    def client(self) -> Any:
        """A boto3 client: the checker's way in, which shares no code with ours."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name=_KEYS["AWS_REGION"],
            aws_access_key_id=_KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=_KEYS["AWS_SECRET_ACCESS_KEY"],
        )

    def download(self, prefix: str, folder: Path) -> Path:
        """Copy every object below `prefix` into `folder`, for the checker."""
        client = self.client()
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{prefix}/"):
            for entry in page.get("Contents", []):
                target = folder / entry["Key"].removeprefix(f"{prefix}/")
                target.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(BUCKET, entry["Key"], str(target))
        return folder

    def honours_conditional_puts(self) -> bool:
        """Whether the second create of one key is refused with 412, and leaves the first one's bytes."""
        from botocore.exceptions import ClientError

        client = self.client()
        client.put_object(Bucket=BUCKET, Key="probe", Body=b"first", IfNoneMatch="*")
        try:
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"second", IfNoneMatch="*")
        except ClientError as error:
            kept = client.get_object(Bucket=BUCKET, Key="probe")["Body"].read()
            return error.response["ResponseMetadata"]["HTTPStatusCode"] == 412 and kept == b"first"
        return False

    def stop(self) -> None:
        self._process.kill()

    def _answers(self) -> bool:
        from botocore.exceptions import BotoCoreError

        try:
            self.client().create_bucket(Bucket=BUCKET)
        except BotoCoreError:
            return False
        return True


_KEYS = {"AWS_ACCESS_KEY_ID": "chaos", "AWS_SECRET_ACCESS_KEY": "chaos", "AWS_REGION": "us-east-1"}
