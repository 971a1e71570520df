// Light or dark: as the system has it, until somebody chooses.

import { icon } from "./icons";
import { $ } from "./panels";

export function setUpTheme(): void {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const stored = (): string | null => {
    try {
      return localStorage.getItem("anymask-theme");
    } catch {
      return null; // storage may be forbidden
    }
  };
  const apply = (): void => {
    const theme = stored() ?? (dark.matches ? "dark" : "light");
    document.documentElement.dataset.theme = theme;
    $("theme").innerHTML = icon(theme === "dark" ? "sun" : "moon");
  };
  dark.addEventListener("change", apply);
  $("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    try {
      localStorage.setItem("anymask-theme", next);
    } catch {
      // then it lasts until the page is left
    }
    document.documentElement.dataset.theme = next;
    $("theme").innerHTML = icon(next === "dark" ? "sun" : "moon");
  });
  apply();
}
