// The objects of a photo: choose, rename, hide, edit, delete.

import type { Xy } from "../core/geometry";
import { announce } from "./progress";
import { draftOf, type Item } from "./state";
import type { Studio } from "./studio";

export class Objects {
  constructor(private readonly studio: Studio) {}

  select(id: number | null): void {
    const photo = this.studio.photo;
    if (!photo) return;
    photo.history.replace({ ...photo.scene, selected: id });
    this.studio.changed(photo);
  }

  pick(xy: Xy): void {
    const item = this.studio.view.itemAt(xy);
    this.select(item?.id ?? null);
    if (item) announce(`${item.name} selected.`);
  }

  editItem(id: number): void {
    const photo = this.studio.photo;
    const item = photo?.scene.items.find((candidate) => candidate.id === id);
    if (photo && item) this.studio.edits.commit(photo, { ...photo.scene, draft: draftOf(item), selected: null });
  }

  rename(id: number, name: string): void {
    this.changeItem(id, (item) => (name.trim() && name !== item.name ? { ...item, name: name.trim() } : item));
  }

  toggleHidden(id: number): void {
    this.changeItem(id, (item) => ({ ...item, hidden: !item.hidden }));
  }

  remove(id: number): void {
    const photo = this.studio.photo;
    if (!photo) return;
    const items = photo.scene.items.filter((item) => item.id !== id);
    const draft = photo.scene.draft?.edits === id ? null : photo.scene.draft;
    if (items.length < photo.scene.items.length) this.studio.edits.commit(photo, { items, draft, selected: null });
  }

  removeAll(): void {
    const photo = this.studio.photo;
    if (photo?.scene.items.length) this.studio.edits.commit(photo, { items: [], draft: photo.scene.draft, selected: null });
  }

  private changeItem(id: number, change: (item: Item) => Item): void {
    const photo = this.studio.photo;
    if (!photo) return;
    const items = photo.scene.items.map((item) => (item.id === id ? change(item) : item));
    if (items.some((item, i) => item !== photo.scene.items[i])) this.studio.edits.commit(photo, { ...photo.scene, items });
  }
}
