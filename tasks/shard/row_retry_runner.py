"""One claimed shard whose error rows are computed anew and merged into the part that is there.

claimed -> gate -> PREPARE -> others are shut out -> (merged in this round already? -> adopt) -> engine -> run -> verify
-> PREPARE -> replace -> COMMIT

The part is replaced in one step, by the holder of the last claim alone: its gate was made before the ledger said that
the shard is its own, and whoever claims after that shuts it. So any step may be the last one here, as in ShardRunner.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from pydantic import ValidationError

from parquetry.schemas.errors import LeaseLostError, PermanentError, UnreadableFileError
from parquetry.schemas.manifest import PartRecord
from parquetry.schemas.spec.row_retry import RowRetry, retry_file
from parquetry.schemas.storage.replacement import Replacement
from parquetry.tasks.failpoints import failpoint
from parquetry.tasks.ledger.claim import CommitReply, LeaseProgress
from parquetry.tasks.shard.shard_runner import ShardRunner
from parquetry.workers.shards.merge import Merge


class RetryUnknownError(PermanentError):
    """The retry of rows of job {job} was not begun to its end; `parquetry retry --rows {job}` begins it again."""


class RowRetryRunner(ShardRunner):
    """Runs one claim of a retry of rows."""

    def run(self) -> CommitReply:
        """As ShardRunner.run; a part that has vanished is computed as a whole."""
        failpoint("retry_started")
        with self.storage.replacement(self.shard.part_name) as new:
            failpoint("retry_gate")
            self.prepare()
            new.shut_others()
            failpoint("retry_alone")
            base = self.find()
            if base is None:
                return super().run()
            if self._is_merged(base):
                return self.adopt(base)
            return self._replace(new, base)

    def _is_merged(self, part: PartRecord) -> bool:
        return part.last_round.round >= self.claim.round or not part.error_rows

    def _replace(self, new: Replacement, base: PartRecord) -> CommitReply:
        part = self._merged(new.path, base)
        failpoint("retry_merged")
        self.verify(new.path, part)
        self.prepare()
        failpoint("retry_prepared")
        won = new.replace()
        failpoint("retry_replaced")
        if won:
            return self.commit(part)
        # an object store may have done it and lost the answer
        found = self.found()
        if not self._is_merged(found):
            raise LeaseLostError(shard=self.shard.index)
        return self.adopt(found)

    def _merged(self, attempt: Path, base: PartRecord) -> PartRecord:
        """Compute the error rows of the part, write them among its others, and read the attempt back."""
        retry = self._retry()
        self.record = retry.applied(self.record)
        with self.engine() as engine, self.storage.open(base.path) as file:
            failpoint("retry_engine")
            self.lease.tell_soon(LeaseProgress(is_computing=True))
            with closing(Merge(file, base, retry, self.shard.first_row)) as merge:
                return self.run_rows(attempt, engine, merge)

    def _retry(self) -> RowRetry:
        """Raises RetryUnknownError where whoever began it died before its settings were written, StorageError."""
        name = retry_file(self.claim.round)
        data = self.storage.try_read(name)
        if data is None:
            raise RetryUnknownError(job=self.claim.job)
        try:
            retry = RowRetry.model_validate_json(data)
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise UnreadableFileError(path=self.storage.root.join(name), reason=reason) from None
        if (retry.job, retry.round) != (self.claim.job, self.claim.round):
            raise RetryUnknownError(job=self.claim.job)
        return retry
