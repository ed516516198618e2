"""State files: locks, permissions and symbolic links."""

import os
import stat

import pytest
from store.state_files import (
    loaded,
    open_in_another_process,
    save,
)

from comms_exporter.store.errors import StateInUseError, StoreError
from comms_exporter.store.sqlite import SqliteStore


class TestLocks:
    """One process at a time uses a state file."""

    def test_a_second_process_cannot_open_the_file(self, store, path):
        assert f"StateInUseError: {path} is in use by another process" in open_in_another_process(path)
        with pytest.raises(StateInUseError):
            SqliteStore(path)

    @pytest.mark.parametrize("way", ["symlink_to", "hardlink_to"])
    def test_a_second_process_cannot_open_it_under_another_name(self, store, path, tmp_path, way):
        other = tmp_path / "other.db"
        getattr(other, way)(path)

        assert f"StateInUseError: {other} is in use by another process" in open_in_another_process(other)

    def test_a_second_process_cannot_open_it_after_the_lock_file_was_removed(self, store, state, path):
        # As after a failed save: the next one reconnects, and must not lose the lock.
        store._disconnect()
        save(store, state)
        path.with_name("state.db.lock").unlink()

        assert "StateInUseError" in open_in_another_process(path)
        save(store, state)

    def test_a_file_that_replaces_it_is_locked_too(self, store, state, path, tmp_path):
        SqliteStore(tmp_path / "new.db").close()
        (tmp_path / "new.db").rename(path)
        save(store, state)
        path.with_name("state.db.lock").unlink()

        assert "StateInUseError" in open_in_another_process(path)

    def test_the_next_process_can_open_it(self, store, path):
        store.close()

        assert open_in_another_process(path) == ""


class TestPermissions:
    """Other users can neither read nor plant anything."""

    @pytest.fixture(params=[0o000, 0o022])
    def umask(self, request):
        before = os.umask(request.param)
        yield
        os.umask(before)

    @pytest.mark.usefixtures("umask")
    def test_only_the_owner_can_read_new_files(self, state, tmp_path):
        path = tmp_path / "new" / "deep" / "state.db"
        store = SqliteStore(path)
        save(store, state)

        made = [path.parent.parent, path.parent, *path.parent.iterdir()]
        assert {"state.db", "state.db-wal", "state.db-shm", "state.db.lock"} == {each.name for each in made[2:]}
        for each in made:
            assert stat.S_IMODE(each.stat().st_mode) == (0o700 if each.is_dir() else 0o600), each
        store.close()

    @pytest.mark.parametrize(("before", "after"), [(0o644, 0o600), (0o666, 0o600), (0o640, 0o640), (0o600, 0o600)])
    def test_permissions_for_others_are_removed(self, store, state, path, before, after):
        save(store, state)
        store.close()
        path.chmod(before)
        loaded(path)

        assert after == stat.S_IMODE(path.stat().st_mode)

    @pytest.mark.parametrize("suffix", ["", ".lock", "-wal", "-shm"])
    def test_no_file_is_created_through_a_symbolic_link(self, tmp_path, suffix):
        planted, target = tmp_path / f"state.db{suffix}", tmp_path / "target"
        planted.symlink_to(target)

        with pytest.raises(StoreError, match=f"{planted} is a symbolic link"):
            SqliteStore(tmp_path / "state.db")
        assert not target.exists()

    def test_the_target_of_a_symbolic_link_is_not_changed(self, tmp_path):
        target, path = tmp_path / "target", tmp_path / "state.db"
        target.write_text("precious")
        path.symlink_to(target)

        _, renamed_to = loaded(path)

        assert "precious" == target.read_text()
        assert renamed_to.is_symlink()
        assert not path.is_symlink()

    def test_what_is_not_a_regular_file_is_not_opened(self, tmp_path):
        os.mkfifo(tmp_path / "state.db")

        with pytest.raises(StoreError, match="not a regular file"):
            SqliteStore(tmp_path / "state.db")

    @pytest.mark.parametrize("name", ["", "file/state.db"])
    def test_an_impossible_path_is_named_in_the_error(self, tmp_path, name):
        (tmp_path / "file").touch()

        with pytest.raises(StoreError, match=str(tmp_path)):
            SqliteStore(tmp_path / name)
