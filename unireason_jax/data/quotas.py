"""Groups that every packed row must hold some records of (BAGEL's "mandatory groups").

BAGEL's packer puts one record of each such group into a row before it looks at any limit, so rows
overrun it. Here the records of a row's quota are chosen first, as one bundle, and the row is filled
up beside it under the true budgets.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

_MORE = 1.05  # packs that may be needed beyond those that a perfect fill would take


@dataclasses.dataclass(frozen=True)
class Quotas:
    """How many records of which group a row holds at least.

    Attributes:
      groups: int [n], group of every record.
      least: records by group; groups without an entry are free.
    """

    groups: np.ndarray
    least: Mapping[int, int]

    def subset(self, records: np.ndarray) -> "Quotas":
        """The same for some of the records, renumbered in their order."""
        return Quotas(self.groups[records], self.least)

    def bundles(
        self, order: np.ndarray, lengths: np.ndarray, limit: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray]:
        """Bundles of records that meet the quotas, one for each row, and the records left.

        A group that is too small for every row is missing from the last bundles.

        Args:
          order: int [n], the records to pack, in the order of packing.
          lengths: int [records, 3], tokens of every record by stream.
          limit: int [3], the row's budgets.

        Returns:
          Arrays of records, evenly spread over the order, and the rest of `order`.

        Raises:
          ValueError: a group has fewer records than its quota, or no bundle fits a row.
        """
        share = lengths[order].sum(0) / np.maximum(limit, 1)
        rows = int(np.ceil(share.max() * _MORE)) + 1
        bundles: list[list[np.ndarray]] = [[] for _ in range(rows)]
        for group, least in self.least.items():
            members = order[self.groups[order] == group]
            count = min(rows, len(members) // max(least, 1))
            if least < 1 or not count:
                raise ValueError(
                    f"group {group} has {len(members)} records for a quota of {least} in every "
                    "row; give a quota from 1 to what there is"
                )
            spread = np.arange(count * least) * len(members) // (count * least)
            for bundle, part in zip(bundles, members[spread].reshape(count, least)):
                bundle.append(part)
        whole = [np.concatenate(bundle) for bundle in bundles if bundle]
        kept = [bundle for bundle in whole if (lengths[bundle].sum(0) <= limit).all()]
        if not kept:
            raise ValueError(
                f"a row's quotas need {lengths[whole[0]].sum(0).tolist()} tokens (text, vit, "
                f"latent) but its budgets are {limit.tolist()}; raise the budgets or lower the "
                "quotas"
            )
        return kept, order[~np.isin(order, np.concatenate(kept))]

    def unmet(self, packs: list[np.ndarray]) -> int:
        """Packs that hold fewer records of a group than its quota."""
        return sum(
            any((self.groups[pack] == group).sum() < least for group, least in self.least.items())
            for pack in packs
        )
