// Texts to begin with; written for this page.

export const EXAMPLES = [
  {
    name: "a change of mind",
    text: "What a wonderful camera. The pictures are sharp, the colours are beautiful, and I loved it from the first day. Then the battery died, the screen went black, and they refused to refund me. What a waste of money.",
  },
  {
    name: "delight",
    text: "My daughter has not put this book down since it came. Beautiful pictures, a story that made us both laugh, and an ending I will remember. We have already given two away as presents.",
  },
  { name: "anger", text: "Broke on the first day. The second one too. Do not buy this, it is cheap rubbish and they will not take it back." },
  { name: "recommended", text: "I would recommend this." },
  { name: "not recommended", text: "I would not recommend this." },
  { name: "hard: not bad", text: "The food was not bad." },
  {
    name: "neither",
    text: "The box holds a cable, a stand and a leaflet in six languages. The stand is made of plastic and is black.",
  },
];

// Ten lines that teach what a review is about, and three without a label.
export const LESSONS = [
  "food\tThe soup was cold and the bread was stale.",
  "food\tBest pizza in town, thin crust and fresh basil.",
  "food\tI ordered the fish and it was cooked to perfection.",
  "food\tThe dessert menu is short but every cake is homemade.",
  "food\tOur waiter brought the wrong starters twice.",
  "film\tThe plot makes no sense and the ending is a joke.",
  "film\tA moving story with a brilliant cast.",
  "film\tThe director takes his time, and every scene counts.",
  "film\tI fell asleep in the second half of this movie.",
  "film\tGreat soundtrack, weak script.",
  "The actors do their best with a dull script.",
  "The steak was tender and the wine was good.",
  "A feast for the eyes, and a little too sweet.",
].join("\n");
