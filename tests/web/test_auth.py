"""Basic authentication and the rate limit: who gets a response, and that guessing passwords reveals and costs little."""

import asyncio
import base64
import threading

import aiohttp
import bcrypt
import pytest
from web.serving import configured, get

from comms_exporter.web.auth import BusyError, PasswordVerifier, RequestLimiter
from comms_exporter.web.limits import Limits
from comms_exporter.web.web_config import RateLimit


def hashed(password, cost=4):
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(cost)).decode().replace("$2b$", "$2y$")


def users(**passwords):
    return "basic_auth_users:\n" + "".join(f"  {name}: {hashed(text)}\n" for name, text in passwords.items())


def basic(user, password):
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class TestPasswordVerifier:
    @pytest.fixture
    async def passwords(self):
        passwords = PasswordVerifier(max_waiting=32, matches=self.compare)
        self.compared = []
        yield passwords
        passwords.close()

    def compare(self, password, hash_):
        self.compared.append((password, hash_))
        return bcrypt.checkpw(password, hash_)

    @pytest.mark.parametrize("prefix", [b"$2a$", b"$2b$", b"$2y$"])
    async def test_accepts_only_the_right_password(self, passwords, prefix):
        known = {b"alice": hashed("wonder").encode().replace(b"$2y$", prefix)}
        assert await passwords.verify(basic("alice", "wonder"), known)
        assert not await passwords.verify(basic("alice", "wander"), known)
        assert not await passwords.verify(basic("bob", "wonder"), known)

    async def test_compares_each_password_once(self, passwords):
        known = {b"alice": hashed("wonder").encode()}
        for _ in range(3):
            assert await passwords.verify(basic("alice", "wonder"), known)
            assert not await passwords.verify(basic("alice", "wander"), known)
            assert not await passwords.verify(basic("bob", "wander"), known)
        assert 3 == len(self.compared)
        self.compared.clear()
        concurrent = [passwords.verify(basic("alice", "both"), known) for _ in range(9)]
        assert [False] * 9 == await asyncio.gather(*concurrent)
        assert 1 == len(self.compared)

    async def test_forgets_an_accepted_password_when_its_hash_changes(self, passwords):
        assert await passwords.verify(basic("alice", "old"), {b"alice": hashed("old").encode()})
        known = {b"alice": hashed("new").encode()}
        assert not await passwords.verify(basic("alice", "old"), known)
        assert await passwords.verify(basic("alice", "new"), known)
        assert not await passwords.verify(basic("alice", "new"), {b"bob": hashed("new").encode()})

    async def test_takes_as_long_for_an_unknown_user(self, passwords):
        """Each unknown name always has the bcrypt cost of the same real user."""
        costs = {4: "alice", 5: "bob", 6: "carol"}
        known = {name.encode(): hashed("wonder", cost).encode() for cost, name in costs.items()}
        names = [f"nobody{number}" for number in range(30)]
        for name in names:
            assert not await passwords.verify(basic(name, "wonder"), known)
        used = [hash_[4:6] for _, hash_ in self.compared]
        assert {b"04", b"05", b"06"} == set(used)
        for name in names:
            assert not await passwords.verify(basic(name, "another"), known)
        assert used + used == [hash_[4:6] for _, hash_ in self.compared]

    async def test_keeps_no_password_in_memory(self, passwords):
        known = {b"alice": hashed("wonder").encode()}
        await passwords.verify(basic("alice", "wonder"), known)
        await passwords.verify(basic("alice", "wander"), known)
        assert b"wonder" not in repr(vars(passwords)).encode()
        assert b"wander" not in repr(vars(passwords)).encode()

    async def test_remembers_accepted_passwords_despite_many_rejected_ones(self, passwords):
        known = {b"alice": hashed("wonder").encode()}
        assert await passwords.verify(basic("alice", "wonder"), known)
        for number in range(150):
            await passwords.verify(basic("alice", f"{number}"), known)
        assert 100 == len(passwords._rejected)
        self.compared.clear()
        assert await passwords.verify(basic("alice", "wonder"), known)
        assert [] == self.compared

    async def test_compares_one_password_at_a_time_and_lets_few_wait(self):
        go, running, concurrency = threading.Event(), [], []

        def slow(*_):
            running.append(1)
            concurrency.append(len(running))
            go.wait(10)
            running.pop()
            return False

        passwords = PasswordVerifier(max_waiting=3, matches=slow)
        known = {b"alice": hashed("wonder").encode()}
        waiting = [asyncio.create_task(passwords.verify(basic("alice", f"{n}"), known)) for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await passwords.verify(basic("alice", "3"), known)
        go.set()
        assert [False] * 3 == await asyncio.gather(*waiting)
        assert [1, 1, 1] == concurrency
        assert not await passwords.verify(basic("alice", "3"), known)
        passwords.close()

    @pytest.mark.parametrize(
        "header", ["", "Basic", "Basic !", "Basic é", "Bearer abc", "Basic " + base64.b64encode(b"alice").decode()]
    )
    async def test_rejects_a_header_without_credentials(self, passwords, header):
        assert not await passwords.verify(header, {b"alice": hashed("wonder").encode()})
        assert [] == self.compared

    async def test_accepts_colons_other_alphabets_and_empty_names(self, passwords):
        assert await passwords.verify(basic("ålice", "wön:der"), {"ålice".encode(): hashed("wön:der").encode()})
        assert await passwords.verify(basic("", "x").replace("Basic", "bAsIc"), {b"": hashed("x").encode()})


class TestBasicAuth:
    async def test_is_required_for_every_path(self, tmp_path, log):
        async with (
            configured(tmp_path, users(alice="wonder-canary"), log) as (url, _),
            aiohttp.ClientSession() as session,
        ):
            for path in ("/", "/large", "/-/healthy", "/nowhere"):
                for header in ({}, {"Authorization": basic("alice", "wander-canary")}, {"Authorization": "Basic ?"}):
                    async with session.get(f"{url}{path}", headers=header) as response:
                        assert (401, "Basic") == (response.status, response.headers["WWW-Authenticate"])
                        assert "canary" not in await response.text()
            right = {"Authorization": basic("alice", "wonder-canary")}
            assert (200, "ok\n") == await get(url, headers=right)
            assert 404 == (await get(url, "/nowhere", headers=right))[0]
        assert [] == log.lines

    @pytest.mark.parametrize("password", ["x" * 73, "x" * 5000, "a\0b"])
    async def test_rejects_passwords_that_bcrypt_cannot_compare(self, tmp_path, log, password):
        async with configured(tmp_path, users(alice="x" * 72), log) as (url, _):
            assert 401 == (await get(url, headers={"Authorization": basic("alice", password)}))[0]
            assert 200 == (await get(url, headers={"Authorization": basic("alice", "x" * 72)}))[0]

    async def test_follows_changes_of_the_file(self, tmp_path, log):
        old, new = ({"Authorization": basic("alice", text)} for text in ("old", "newer"))
        async with configured(tmp_path, users(alice="old"), log) as (url, path):
            assert 200 == (await get(url, headers=old))[0]
            path.write_text(users(alice="newer", bob="x"))
            assert [401, 200] == [(await get(url, headers=each))[0] for each in (old, new)]
            path.write_text("basic_auth_users:\n  alice: newer-canary\n")
            assert [401, 200] == [(await get(url, headers=each))[0] for each in (old, new)]
            path.write_text("")
            assert 200 == (await get(url))[0]
        assert ["info", "error", "info"] == [level for level, *_ in log.lines]
        assert "canary" not in repr(log.lines)

    async def test_answers_503_if_too_many_passwords_are_waiting(self, tmp_path, log):
        async with configured(tmp_path, users(alice="x"), log, limits=Limits(waiting_passwords=0)) as (url, _):
            assert 503 == (await get(url, headers={"Authorization": basic("alice", "x")}))[0]


class TestRateLimit:
    async def test_answers_429_until_the_limit_is_raised(self, tmp_path, log):
        async with configured(tmp_path, "rate_limit:\n  interval: 1h\n  burst: 2\n", log) as (url, path):
            assert [200, 200, 429, 429] == [(await get(url))[0] for _ in range(4)]
            path.write_text("rate_limit:\n  interval: 1h\n  burst: 10\n")
            assert 200 == (await get(url))[0]

    def test_allows_a_burst_and_then_one_request_per_interval(self):
        now = [0.0]
        limiter = RequestLimiter(lambda: now[0])
        limit = RateLimit(0.5, 2)
        assert [True, True, False] == [limiter.allows(limit) for _ in range(3)]
        now[0] = 0.25
        assert not limiter.allows(limit)
        now[0] = 0.5
        assert [True, False] == [limiter.allows(limit) for _ in range(2)]
        now[0] = 100
        assert [True, True, False] == [limiter.allows(limit) for _ in range(3)]
        assert limiter.allows(None)
