# SPDX-License-Identifier: Apache-2.0
"""The end-to-end harness: sandboxes, real servers, clients that know the truth, and tallyd itself."""
