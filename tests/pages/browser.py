"""A real browser for pages, and what is asked of each page in it.

python -m tests.pages.browser runs/demo/gallery.html runs/demo/dives/*.html
"""

import contextlib
import importlib.util
import pathlib
import shutil
import sys

import pytest

CHROMIUM = shutil.which("chromium")
MISSING = "no chromium, or no playwright: pages are not looked at in a browser"
WIDTHS = (360, 768, 1600)


def is_there():
    return CHROMIUM is not None and all(
        importlib.util.find_spec(name) for name in ("playwright", "axe_playwright_python")
    )


def in_browser(test):
    """Marks a test that looks at a page; left out, and counted, where there is no browser."""
    return pytest.mark.browser(pytest.mark.skipif(not is_there(), reason=MISSING)(test))


@contextlib.contextmanager
def opened():
    """A browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def complaints(browser, path, pictures=None):
    """What is wrong with a page at every width, light and dark; [] where nothing is.

    Args:
      browser: from `opened`.
      path: the page.
      pictures: a folder for screenshots.
    """
    found = []
    for scheme in ("light", "dark"):
        for width in WIDTHS:
            where = f"{scheme} {width}: "
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme
            )
            page = context.new_page()
            _listen(page, path, found, where)
            page.goto(path.as_uri())
            if page.evaluate("document.documentElement.scrollWidth > innerWidth + 1"):
                found.append(where + "is wider than the window")
            found += [where + one for one in _unreachable(page)]
            if width in (360, 1600):
                found += [where + one for one in _violations(page)]
            if pictures is not None:
                page.screenshot(path=pictures / f"{path.stem}-{scheme}-{width}.png", full_page=True)
            context.close()
    page = browser.new_page()
    page.goto(path.as_uri())
    page.emulate_media(media="print")
    if len(page.pdf()) < 5000:
        found.append("print: the page is empty")
    page.close()
    return found


def _listen(page, path, found, where):
    """Notes what a page writes on its console, and what it asks for beside itself."""

    def note_console(message):
        if message.type in ("error", "warning"):
            found.append(where + message.text)

    def note_request(request):
        if not request.url.startswith(("data:", "blob:", path.as_uri())):
            found.append(f"{where}asks for {request.url}")

    page.on("console", note_console)
    page.on("pageerror", lambda error: found.append(where + str(error)))
    page.on("request", note_request)


def _unreachable(page):
    """What scrolls or opens, and cannot be reached with the Tab key."""
    page.evaluate(
        """window.wanted = [...document.querySelectorAll(
             'summary, button, select, input, a[href], .scroll')]
           .filter(one => one.checkVisibility({contentVisibilityAuto: true}))"""
    )
    names = page.evaluate("wanted.map(one => one.outerHTML.slice(0, 90))")
    seen = set()
    for _ in range(len(names) + 5):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("wanted.indexOf(document.activeElement)"))
    return [f"not reached by Tab: {name}" for at, name in enumerate(names) if at not in seen]


def _violations(page):
    # axe-core is a script of ours, which the page's own policy would keep out; evaluated by the
    # browser's debugger it runs all the same.
    page.evaluate(pathlib.Path(_axe()).read_text())
    result = page.evaluate("axe.run(document)")
    return [
        f"{one['id']}: {one['help']} ({one['nodes'][0]['html'][:120]})"
        for one in result["violations"]
    ]


def _axe():
    spec = importlib.util.find_spec("axe_playwright_python")
    return pathlib.Path(spec.origin).with_name("axe.min.js")


def main(paths):
    """Prints what is wrong with pages; returns 1 where anything is."""
    if not is_there():
        print(MISSING)
        return 0
    wrong = 0
    with opened() as browser:
        for path in map(pathlib.Path, paths):
            found = complaints(browser, path.absolute())
            wrong += len(found)
            print(f"{path}: {'nothing wrong' if not found else '; '.join(found)}")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
